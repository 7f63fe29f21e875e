package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"tailscale.com/derp"
	"tailscale.com/types/key"
)

// gone: a sender of disco packets to an absent peer gets PeerGone, at a limited
// rate; a receiver of a peer's packets gets PeerGone when the peer leaves; no
// other client does.
func (c *check) gone(ctx context.Context) error {
	src := newSource(7)
	a, b, err := c.two(ctx)
	if err != nil {
		return err
	}
	defer a.Close()
	defer b.Close()
	stranger, err := c.join(ctx, key.NewNode())
	if err != nil {
		return err
	}
	defer stranger.Close()

	nobody := key.NewNode().Public()
	for _, packet := range [][]byte{src.packet(1312), src.packet(0), src.disco(discoMin - 1)} {
		if err := a.Send(nobody, packet); err != nil {
			return err
		}
	}
	if err := a.wantNothing(ctx); err != nil {
		return fmt.Errorf("after packets to nobody that are not disco: %w", err)
	}
	if err := a.Send(nobody, src.disco(discoMin)); err != nil {
		return err
	}
	if err := a.wantGone(ctx, nobody, derp.PeerGoneReasonNotHere); err != nil {
		return fmt.Errorf("after disco to nobody: %w", err)
	}

	if err := errors.Join(b.pass(ctx, a, src.packet(64)), stranger.pass(ctx, b, src.packet(64))); err != nil {
		return err
	}
	b.Close()
	if err := a.wantGone(ctx, b.key, derp.PeerGoneReasonDisconnected); err != nil {
		return fmt.Errorf("after a partner left: %w", err)
	}
	if err := errors.Join(a.wantNothing(ctx), stranger.wantNothing(ctx)); err != nil {
		return fmt.Errorf("after one has been told: %w", err)
	}
	if err := a.Send(b.key, src.disco(100)); err != nil {
		return err
	}
	if err := a.wantGone(ctx, b.key, derp.PeerGoneReasonNotHere); err != nil {
		return fmt.Errorf("after disco to a partner that left: %w", err)
	}
	return c.notHereIsRationed(ctx)
}

// notHereIsRationed: three answers at once, then one a second.
func (c *check) notHereIsRationed(ctx context.Context) error {
	src := newSource(8)
	p, err := c.join(ctx, key.NewNode())
	if err != nil {
		return err
	}
	defer p.Close()
	start := time.Now()
	for i := range 20 {
		nobody := key.NewNode().Public()
		if err := p.Send(nobody, src.disco(100)); err != nil {
			return err
		}
		if i < 3 {
			if err := p.wantGone(ctx, nobody, derp.PeerGoneReasonNotHere); err != nil {
				return fmt.Errorf("disco %d to nobody: %w", i, err)
			}
		}
	}
	if err := p.Ping(ctx); err != nil {
		return err
	}
	most := 3 + int(time.Since(start)/time.Second)
	if got := 3 + len(p.events); got > most {
		return fmt.Errorf("%d answers to 20 disco packets to nobody, at most %d may come", got, most)
	}
	return nil
}

// goneAgain: a peer that returned, sent and left again is announced as gone
// again. The reference server sends PeerGone only the first time.
func (c *check) goneAgain(ctx context.Context) error {
	src := newSource(9)
	a, err := c.join(ctx, key.NewNode())
	if err != nil {
		return err
	}
	defer a.Close()
	k := key.NewNode()
	for visit := range 3 {
		b, err := c.join(ctx, k)
		if err != nil {
			return err
		}
		if err := b.pass(ctx, a, src.packet(64)); err != nil {
			return err
		}
		b.Close()
		if err := a.wantGone(ctx, k.Public(), derp.PeerGoneReasonDisconnected); err != nil {
			return fmt.Errorf("visit %d: %w", visit, err)
		}
	}
	return nil
}

// duplicates: of several connections of one key, the one that sent last gets
// the packets. The key is gone only after all are closed.
func (c *check) duplicates(ctx context.Context) error {
	src := newSource(10)
	k := key.NewNode()
	b, err := c.join(ctx, key.NewNode())
	if err != nil {
		return err
	}
	defer b.Close()
	old, err := c.join(ctx, k)
	if err != nil {
		return err
	}
	defer old.Close()
	if err := errors.Join(b.pass(ctx, old, src.packet(64)), old.pass(ctx, b, src.packet(64))); err != nil {
		return err
	}
	newest, err := c.join(ctx, k)
	if err != nil {
		return err
	}
	defer newest.Close()

	if err := b.pass(ctx, newest, src.packet(64)); err != nil {
		return fmt.Errorf("newest connection: %w", err)
	}
	if err := old.wantNothing(ctx); err != nil {
		return fmt.Errorf("older connection: %w", err)
	}
	// Its ping has made the older one the active one.
	if err := b.pass(ctx, old, src.packet(64)); err != nil {
		return fmt.Errorf("older connection after its ping: %w", err)
	}
	if err := newest.wantNothing(ctx); err != nil {
		return fmt.Errorf("newest connection after the other's ping: %w", err)
	}
	for _, speaker := range []*peer{old, newest, old} {
		if err := errors.Join(speaker.pass(ctx, b, src.packet(64)), b.pass(ctx, speaker, src.packet(64))); err != nil {
			return fmt.Errorf("the connection that spoke last: %w", err)
		}
	}

	old.Close() // the active one
	if err := b.reach(ctx, newest, src); err != nil {
		return fmt.Errorf("after the active connection left: %w", err)
	}
	if err := b.wantNothing(ctx); err != nil {
		return fmt.Errorf("after one of two connections left: %w", err)
	}
	newest.Close()
	if err := b.wantGone(ctx, k.Public(), derp.PeerGoneReasonDisconnected); err != nil {
		return fmt.Errorf("after the last connection left: %w", err)
	}
	return b.wantNothing(ctx)
}

// reach sends packets until one arrives: the server may not have noticed yet
// that the old connection is closed, and there is no event for that.
func (p *peer) reach(ctx context.Context, to *peer, src source) error {
	retry := time.NewTicker(20 * time.Millisecond)
	defer retry.Stop()
	for {
		if err := p.Send(to.key, src.packet(64)); err != nil {
			return err
		}
		select {
		case e := <-to.events:
			if m, ok := e.msg.(derp.ReceivedPacket); !ok || m.Source != p.key {
				return to.unexpected("packet from "+p.name(), e, nil)
			}
			return p.settle(ctx, to, src)
		case <-retry.C:
		case <-ctx.Done():
			return fmt.Errorf("%s: no packet from %s arrived", to.name(), p.name())
		}
	}
}

// settle drops the packets of reach until a marked packet has arrived.
func (p *peer) settle(ctx context.Context, to *peer, src source) error {
	mark := src.packet(200)
	if err := p.Send(to.key, mark); err != nil {
		return err
	}
	for {
		e, err := to.next(ctx)
		m, ok := e.msg.(derp.ReceivedPacket)
		if !ok {
			return to.unexpected("packet from "+p.name(), e, err)
		}
		if len(m.Data) == len(mark) {
			return nil
		}
	}
}

// reconnect: a client that left can log in again with its key, and a client
// whose connection breaks reconnects by itself; packets reach both again.
func (c *check) reconnect(ctx context.Context) error {
	b, err := c.join(ctx, key.NewNode())
	if err != nil {
		return err
	}
	defer b.Close()
	k := key.NewNode()
	for visit := range 3 {
		a, err := c.join(ctx, k)
		if err != nil {
			return fmt.Errorf("visit %d: %w", visit, err)
		}
		if err := a.talk(ctx, b); err != nil {
			return fmt.Errorf("visit %d: %w", visit, err)
		}
		a.Close()
		if visit == 0 { // the reference announces only the first departure
			if err := b.wantGone(ctx, k.Public(), derp.PeerGoneReasonDisconnected); err != nil {
				return err
			}
			b.forgiven = k.Public()
		}
	}

	line, err := newCut(c.url.Host)
	if err != nil {
		return err
	}
	defer line.Close()
	if err := c.breaks(ctx, line, line.end, true); err != nil {
		return fmt.Errorf("after an orderly end: %w", err)
	}
	if err := c.breaks(ctx, line, line.reset, true); err != nil {
		return fmt.Errorf("after a reset: %w", err)
	}
	// The server still has the old connections when the new ones log in.
	if err := c.breaks(ctx, line, line.vanish, false); err != nil {
		return fmt.Errorf("after vanishing: %w", err)
	}
	return nil
}

// breaks breaks the connection of a client that exchanges packets, twice.
func (c *check) breaks(ctx context.Context, line *cut, cause func(), mayBeGone bool) error {
	a, err := c.at(line.port()).join(ctx, key.NewNode(), func(p *peer) { p.reconnects = true })
	if err != nil {
		return err
	}
	defer a.Close()
	b, err := c.join(ctx, key.NewNode())
	if err != nil {
		return err
	}
	defer b.Close()
	if mayBeGone {
		b.forgiven = a.key
	}
	for range 2 {
		if err := a.talk(ctx, b); err != nil {
			return err
		}
		cause()
		if err := a.wantReconnect(ctx); err != nil {
			return err
		}
	}
	if err := a.talk(ctx, b); err != nil {
		return err
	}
	line.release()
	return errors.Join(b.talk(ctx, a), a.wantNothing(ctx), b.wantNothing(ctx))
}

// talk exchanges a few packets.
func (p *peer) talk(ctx context.Context, with *peer) error {
	src := newSource(11)
	for range 3 {
		if err := p.pass(ctx, with, src.packet(1312)); err != nil {
			return err
		}
		if err := with.pass(ctx, p, src.packet(1312)); err != nil {
			return err
		}
	}
	return nil
}

// wantReconnect waits for the client's own new connection.
func (p *peer) wantReconnect(ctx context.Context) error {
	e, err := p.next(ctx)
	if err != nil || e.err == nil {
		return p.unexpected("a broken connection", e, err)
	}
	broken := e.gen
	for {
		e, err := p.next(ctx)
		if _, ok := e.msg.(derp.ServerInfoMessage); ok && e.gen > broken {
			return nil
		}
		if err != nil || e.err == nil {
			return p.unexpected("a new connection", e, err)
		}
	}
}
