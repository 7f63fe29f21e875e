// Oldcheck tests a DERP server with old releases of the real client and prints
// one JSON verdict.
//
//	oldcheck -at 127.0.0.1:3340 [-tls] [-mesh-key HEX [-trusted]]
//
// It is built twice: with the oldest release that builds at all (oldest.mod),
// which can only log in with a mesh key, and with the oldest that logs in
// without one as today's clients do (go.mod).
//
// It exits 0 when the server passed, 1 when it failed. The client's log goes
// to standard error.
package main

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"time"

	"tailscale.com/derp"
	"tailscale.com/derp/derphttp"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

// A client is one key's connection with the messages it received.
type client struct {
	*derphttp.Client
	key  key.Public
	came chan derp.ReceivedMessage
}

var (
	at      = flag.String("at", "", "the server's address and port")
	useTLS  = flag.Bool("tls", false, "speak TLS, with any certificate: these clients know no pins")
	meshKey = flag.String("mesh-key", "", "the server's mesh key: watch, forward and close as well")
	trusted = flag.Bool("trusted", false, "always come with the mesh key")
)

// dial returns a client for the server, not yet connected.
func dial(private key.Private) (*derphttp.Client, error) {
	if !*useTLS {
		return derphttp.NewClient(private, "http://"+*at+"/derp", log.Printf)
	}
	host, port, err := net.SplitHostPort(*at)
	if err != nil {
		return nil, err
	}
	// Each release has its own name for the port; one trusts any certificate with it.
	node := fmt.Sprintf(`{"Name": "check", "RegionID": 900, "HostName": %q, "IPv4": %q, "IPv6": "none",
		"DERPTestPort": %s, "DERPPort": %s, "InsecureForTests": true}`, host, host, port, port)
	region := &tailcfg.DERPRegion{RegionID: 900, Nodes: []*tailcfg.DERPNode{{}}}
	if err := json.Unmarshal([]byte(node), region.Nodes[0]); err != nil {
		return nil, err
	}
	return derphttp.NewRegionClient(private, log.Printf, func() *tailcfg.DERPRegion { return region }), nil
}

// connect logs in with a new key.
func connect(meshKey string) (*client, error) {
	private := key.NewPrivate()
	hc, err := dial(private)
	if err != nil {
		return nil, err
	}
	hc.MeshKey = meshKey
	c := &client{hc, private.Public(), make(chan derp.ReceivedMessage, 256)}
	// A connection does not prove a login: only a message from the server does,
	// and the first is a packet to the client itself.
	if err := c.Send(c.key, []byte("it is me")); err != nil {
		return nil, err
	}
	go c.receive()
	return c, c.expect(c.key, []byte("it is me"))
}

// receive reads until the client is closed.
func (c *client) receive() {
	defer close(c.came)
	for {
		m, err := c.Recv()
		if err != nil {
			return
		}
		switch m := m.(type) {
		case derp.ReceivedPacket:
			m.Data = bytes.Clone(m.Data) // it is the client's buffer
			c.came <- m
		case derp.PeerGoneMessage, derp.PeerPresentMessage:
			c.came <- m
		}
	}
}

// next returns the next message.
func (c *client) next() (derp.ReceivedMessage, error) {
	select {
	case m, ok := <-c.came:
		if !ok {
			return nil, errors.New("the connection was lost")
		}
		return m, nil
	case <-time.After(10 * time.Second):
		return nil, errors.New("nothing came for 10 s")
	}
}

// expect returns an error unless the next message is this packet.
func (c *client) expect(from key.Public, data []byte) error {
	m, err := c.next()
	if err != nil {
		return err
	}
	p, ok := m.(derp.ReceivedPacket)
	if !ok || p.Source != from || !bytes.Equal(p.Data, data) {
		return fmt.Errorf("wanted %d bytes from %s, got %T", len(data), from.ShortString(), m)
	}
	return nil
}

// packets sends packets of every size both ways, which have to arrive unchanged.
func packets(alice, bob *client) error {
	for _, size := range []int{0, 1, 1312, 65536} {
		data := make([]byte, size)
		rand.Read(data)
		for _, way := range [][2]*client{{alice, bob}, {bob, alice}} {
			if err := way[0].Send(way[1].key, data); err != nil {
				return err
			}
			if err := way[1].expect(way[0].key, data); err != nil {
				return fmt.Errorf("%d bytes: %w", size, err)
			}
		}
	}
	return nil
}

// gone checks that a receiver of packets gets PeerGone when their sender leaves.
func gone(alice, bob *client) error {
	bob.Close()
	m, err := alice.next()
	if err != nil {
		return err
	}
	if m != derp.PeerGoneMessage(bob.key) {
		return fmt.Errorf("wanted to hear that the peer is gone, got %T", m)
	}
	return nil
}

// mesh watches, forwards and closes with the mesh key.
func mesh(ordinary string) error {
	alice, err := connect(ordinary)
	if err != nil {
		return err
	}
	peer, err := connect(*meshKey)
	if err != nil {
		return err
	}
	if err := peer.WatchConnectionChanges(); err != nil {
		return err
	}
	seen := map[key.Public]bool{}
	for !seen[alice.key] || !seen[peer.key] {
		m, err := peer.next()
		if err != nil {
			return fmt.Errorf("watching: %w", err)
		}
		if present, ok := m.(derp.PeerPresentMessage); ok {
			seen[key.Public(present)] = true
		}
	}
	far := key.NewPrivate().Public()
	if err := peer.ForwardPacket(far, alice.key, []byte("from afar")); err != nil {
		return err
	}
	if err := alice.expect(far, []byte("from afar")); err != nil {
		return fmt.Errorf("forwarding: %w", err)
	}
	if err := peer.ClosePeer(alice.key); err != nil {
		return err
	}
	for { // others are still announced to it
		m, err := peer.next()
		if err != nil {
			return fmt.Errorf("waiting to hear that the closed peer is gone: %w", err)
		}
		if m == derp.PeerGoneMessage(alice.key) {
			return nil
		}
	}
}

func run() error {
	ordinary := ""
	if *trusted {
		ordinary = *meshKey
	}
	alice, err := connect(ordinary)
	if err != nil {
		return fmt.Errorf("login: %w", err)
	}
	bob, err := connect(ordinary)
	if err != nil {
		return fmt.Errorf("login: %w", err)
	}
	alice.NotePreferred(true)
	alice.NotePreferred(false)
	if err := packets(alice, bob); err != nil {
		return fmt.Errorf("packets: %w", err)
	}
	if err := gone(alice, bob); err != nil {
		return fmt.Errorf("gone: %w", err)
	}
	if *meshKey != "" {
		if err := mesh(ordinary); err != nil {
			return fmt.Errorf("mesh: %w", err)
		}
	}
	return nil
}

func main() {
	flag.Parse()
	verdict := map[string]any{"ok": true}
	if err := run(); err != nil {
		verdict = map[string]any{"ok": false, "error": err.Error()}
	}
	if err := json.NewEncoder(os.Stdout).Encode(verdict); err != nil {
		panic(err)
	}
	if verdict["ok"] != true {
		os.Exit(1)
	}
}
