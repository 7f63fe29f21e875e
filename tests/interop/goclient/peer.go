package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"net"
	"net/netip"
	"net/url"
	"strings"

	"tailscale.com/derp"
	"tailscale.com/derp/derpconst"
	"tailscale.com/derp/derphttp"
	"tailscale.com/net/netmon"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

// A target is the server under test and how to connect to it.
type target struct {
	url    *url.URL
	pin    string // the node's CertName, or ""
	tlsMax uint16 // newest TLS version to offer; 0: the client's own choice
}

// at returns the same target at another port of its host.
func (t target) at(port string) target {
	moved := *t.url
	moved.Host = net.JoinHostPort(t.url.Hostname(), port)
	t.url = &moved
	return t
}

// client returns a client as tailscaled would build it for this target: from a
// node of the DERP map when there is a pin, from a URL otherwise.
func (t target) client(k key.NodePrivate) (*derphttp.Client, error) {
	var c *derphttp.Client
	if t.pin == "" {
		var err error
		if c, err = derphttp.NewClient(k, t.url.JoinPath("/derp").String(), log.Printf, netmon.NewStatic()); err != nil {
			return nil, err
		}
	} else {
		ap, err := netip.ParseAddrPort(t.url.Host)
		if err != nil {
			return nil, fmt.Errorf("a pinned server is dialled by its address: %w", err)
		}
		region := &tailcfg.DERPRegion{RegionID: 900, RegionCode: "check", Nodes: []*tailcfg.DERPNode{{
			Name:     "check",
			RegionID: 900,
			HostName: ap.Addr().String(),
			IPv4:     ap.Addr().String(),
			IPv6:     "none",
			DERPPort: int(ap.Port()),
			CertName: t.pin,
		}}}
		c = derphttp.NewRegionClient(k, log.Printf, netmon.NewStatic(), func() *tailcfg.DERPRegion { return region })
	}
	if t.tlsMax != 0 {
		c.TLSConfig = &tls.Config{MaxVersion: t.tlsMax}
	}
	return c, nil
}

// path connects once and records the kind of connection. The client uses fast
// start (no HTTP answer) exactly if TLS 1.3 has the meta certificate.
func (c *check) path(ctx context.Context) error {
	p, err := c.lonely(ctx, key.NewNode())
	if err != nil {
		return err
	}
	defer p.Close()
	c.notes["server_key"] = p.ServerPublicKey().String()
	state, ok := p.TLSConnectionState()
	if !ok {
		c.notes["tls"] = ""
		return nil
	}
	c.notes["tls"] = strings.TrimPrefix(tls.VersionName(state.Version), "TLS ")
	meta := ""
	for _, cert := range state.PeerCertificates {
		if hex, ok := strings.CutPrefix(cert.Subject.CommonName, derpconst.MetaCertCommonNamePrefix); ok {
			meta = "nodekey:" + hex
		}
	}
	if c.proxied && meta == "" {
		c.notes["fast_start"] = false
		return nil
	}
	if meta != p.ServerPublicKey().String() {
		return fmt.Errorf("meta certificate for %q, but the server's key is %v", meta, p.ServerPublicKey())
	}
	c.notes["fast_start"] = state.Version == tls.VersionTLS13
	return nil
}

// An event is the result of one call of the client's RecvDetail. A packet's
// bytes are a copy.
type event struct {
	gen int // which connection of the client
	msg derp.ReceivedMessage
	err error
}

func (e event) String() string {
	if e.err != nil {
		return fmt.Sprintf("error %q", e.err)
	}
	switch m := e.msg.(type) {
	case derp.ReceivedPacket:
		return fmt.Sprintf("packet of %d bytes (SHA-256 %.4x) from %v", len(m.Data), sha256.Sum256(m.Data), m.Source.ShortString())
	case derp.PeerGoneMessage:
		return fmt.Sprintf("PeerGone(%v, reason %d)", m.Peer.ShortString(), m.Reason)
	}
	return fmt.Sprintf("%T %+v", e.msg, e.msg)
}

// A peer is a real client with all that it received, in order. Any event that a
// scenario does not expect is an error when it is read.
type peer struct {
	*derphttp.Client
	key    key.NodePublic
	events chan event

	// reconnects lets the client reconnect by itself after an error. Without it
	// the first error ends the peer.
	reconnects bool

	// forgiven is a key whose PeerGone(disconnected) is ignored: there is one or
	// none, depending on which of two connections the server noticed first.
	forgiven key.NodePublic
}

// lonely builds a peer that is connected, but has not yet received anything.
func (t target) lonely(ctx context.Context, k key.NodePrivate, setup ...func(*peer)) (*peer, error) {
	c, err := t.client(k)
	if err != nil {
		return nil, err
	}
	p := &peer{Client: c, key: k.Public(), events: make(chan event, 4096)}
	for _, s := range setup {
		s(p)
	}
	if err := p.Connect(ctx); err != nil {
		return nil, err
	}
	go p.receive()
	return p, nil
}

// join builds a peer that the server has accepted: it read ServerInfo.
func (t target) join(ctx context.Context, k key.NodePrivate, setup ...func(*peer)) (*peer, error) {
	p, err := t.lonely(ctx, k, setup...)
	if err != nil {
		return nil, err
	}
	if err := p.wantServerInfo(ctx); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

func (p *peer) receive() {
	for {
		m, gen, err := p.RecvDetail()
		if errors.Is(err, derphttp.ErrClientClosed) {
			return
		}
		if packet, ok := m.(derp.ReceivedPacket); ok {
			packet.Data = bytes.Clone(packet.Data)
			m = packet
		}
		p.events <- event{gen, m, err}
		if err != nil && !p.reconnects {
			return
		}
	}
}

func (p *peer) name() string { return p.key.ShortString() }

// next returns the next event, without keep-alives and forgiven ones.
func (p *peer) next(ctx context.Context) (event, error) {
	for {
		select {
		case e := <-p.events:
			switch m := e.msg.(type) {
			case derp.KeepAliveMessage:
				continue
			case derp.PeerGoneMessage:
				if m.Peer == p.forgiven && m.Reason == derp.PeerGoneReasonDisconnected {
					continue
				}
			}
			return e, nil
		case <-ctx.Done():
			return event{}, errors.New("nothing came in time")
		}
	}
}

// unexpected returns the error of a peer that got another event.
func (p *peer) unexpected(want string, got event, err error) error {
	if err != nil {
		return fmt.Errorf("%s wants %s: %w", p.name(), want, err)
	}
	return fmt.Errorf("%s wants %s, got %v", p.name(), want, got)
}

func (p *peer) wantServerInfo(ctx context.Context) error {
	e, err := p.next(ctx)
	if _, ok := e.msg.(derp.ServerInfoMessage); ok {
		return nil
	}
	return p.unexpected("ServerInfo", e, err)
}

// wantPacket returns an error unless the next event is exactly this packet.
func (p *peer) wantPacket(ctx context.Context, from key.NodePublic, data []byte) error {
	e, err := p.next(ctx)
	m, ok := e.msg.(derp.ReceivedPacket)
	if ok && m.Source == from && bytes.Equal(m.Data, data) {
		return nil
	}
	want := event{msg: derp.ReceivedPacket{Source: from, Data: data}}.String()
	return p.unexpected(want, e, err)
}

// wantGone returns an error unless the next event is this PeerGone.
func (p *peer) wantGone(ctx context.Context, who key.NodePublic, reason derp.PeerGoneReasonType) error {
	e, err := p.next(ctx)
	if m, ok := e.msg.(derp.PeerGoneMessage); ok && m.Peer == who && m.Reason == reason {
		return nil
	}
	return p.unexpected(fmt.Sprintf("PeerGone(%v, reason %d)", who.ShortString(), reason), e, err)
}

// wantNothing returns an error if any event comes before the answers to two
// pings that are sent now: the server may answer the first before it writes
// queued frames. A ping makes the peer its key's active connection.
func (p *peer) wantNothing(ctx context.Context) error {
	for range 2 {
		if err := p.Ping(ctx); err != nil {
			return fmt.Errorf("%s pings: %w", p.name(), err)
		}
	}
	none, cancel := context.WithCancel(ctx)
	cancel()
	for len(p.events) > 0 {
		if e, err := p.next(none); err == nil {
			return p.unexpected("nothing", e, nil)
		}
	}
	return nil
}

// pass sends a packet from p and waits for it at another peer.
func (p *peer) pass(ctx context.Context, to *peer, data []byte) error {
	if err := p.Send(to.key, data); err != nil {
		return fmt.Errorf("%s sends: %w", p.name(), err)
	}
	return to.wantPacket(ctx, p.key, data)
}
