package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"tailscale.com/derp"
	"tailscale.com/types/key"
)

// two joins two peers with new keys.
func (c *check) two(ctx context.Context) (a, b *peer, err error) {
	if a, err = c.join(ctx, key.NewNode()); err != nil {
		return nil, nil, err
	}
	if b, err = c.join(ctx, key.NewNode()); err != nil {
		a.Close()
		return nil, nil, err
	}
	return a, b, nil
}

// relay: packets of every boundary size, disco or not, arrive unchanged: one by
// one, to the sender itself, and in a burst that fits the receiver's queue.
func (c *check) relay(ctx context.Context) error {
	a, b, err := c.two(ctx)
	if err != nil {
		return err
	}
	defer a.Close()
	defer b.Close()
	src := newSource(1)
	passed := 0
	for _, size := range []int{0, 1, discoMin - 1, discoMin, 1312, 16384, 65535, 65536} {
		if size > c.maxSize {
			continue
		}
		for _, packet := range [][]byte{src.packet(size), src.disco(size)} {
			for _, way := range [][2]*peer{{a, b}, {b, a}, {a, a}} {
				if err := way[0].pass(ctx, way[1], packet); err != nil {
					return fmt.Errorf("size %d: %w", size, err)
				}
				passed++
			}
		}
	}
	const burst = 24
	var sent [][]byte
	for range burst {
		packet := src.packet(src.between(0, min(c.maxSize, 4096)))
		sent = append(sent, packet)
		if err := a.Send(b.key, packet); err != nil {
			return err
		}
	}
	for i, packet := range sent {
		if err := b.wantPacket(ctx, a.key, packet); err != nil {
			return fmt.Errorf("packet %d of a burst: %w", i, err)
		}
	}
	c.notes["passed"] = passed + burst
	return errors.Join(a.wantNothing(ctx), b.wantNothing(ctx))
}

// eager: frames sent directly after the login, before ServerInfo, are processed.
// This is how the real client behaves: Connect returns after ClientInfo was
// written.
func (c *check) eager(ctx context.Context) error {
	src := newSource(2)
	for range 20 {
		a, err := c.lonely(ctx, key.NewNode(), func(p *peer) { p.NotePreferred(true) })
		if err != nil {
			return err
		}
		packets := [][]byte{src.packet(1), src.packet(1312), src.packet(min(c.maxSize, 16384))}
		for _, packet := range packets {
			if err := a.Send(a.key, packet); err != nil {
				return err
			}
		}
		if err := a.wantServerInfo(ctx); err != nil {
			return err
		}
		for _, packet := range packets {
			if err := a.wantPacket(ctx, a.key, packet); err != nil {
				return err
			}
		}
		if err := a.wantNothing(ctx); err != nil {
			return err
		}
		a.Close()
	}
	return nil
}

// identity: every ClientInfo that the client can send is accepted.
func (c *check) identity(ctx context.Context) error {
	src := newSource(3)
	for name, setup := range map[string]func(*peer){
		"prober":        func(p *peer) { p.IsProber = true },
		"acks pings":    func(p *peer) { p.SetCanAckPings(true) },
		"app name":      func(p *peer) { p.AppName = "~ interop {\"check\"} of 32 bytes!" },
		"home from now": func(p *peer) { p.NotePreferred(true) },
	} {
		p, err := c.join(ctx, key.NewNode(), setup)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if err := errors.Join(p.pass(ctx, p, src.packet(100)), p.wantNothing(ctx)); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		p.Close()
	}
	return nil
}

// ping: each ping is answered with its own eight bytes. Of many pings in flight
// a server may answer only some (the reference does), but these in order.
func (c *check) ping(ctx context.Context) error {
	p, err := c.join(ctx, key.NewNode())
	if err != nil {
		return err
	}
	defer p.Close()
	start := time.Now()
	const rounds = 100
	for range rounds {
		if err := p.Ping(ctx); err != nil {
			return err
		}
	}
	c.notes["mean_us"] = time.Since(start).Microseconds() / rounds

	const burst = 200
	for i := range byte(burst) {
		if err := p.SendPing([8]byte{0xff, i, 2, 3, 4, 5, 6, 7}); err != nil {
			return err
		}
	}
	end := newSource(12).packet(100) // leaves the server after the pongs
	if err := p.Send(p.key, end); err != nil {
		return err
	}
	answered, last := 0, -1
	for {
		e, err := p.next(ctx)
		if pong, ok := e.msg.(derp.PongMessage); ok && int(pong[1]) >= last && pong == [8]byte{0xff, pong[1], 2, 3, 4, 5, 6, 7} {
			answered, last = answered+1, int(pong[1])
			continue
		}
		if m, ok := e.msg.(derp.ReceivedPacket); ok && answered > 0 && bytes.Equal(m.Data, end) {
			break
		}
		return p.unexpected(fmt.Sprintf("Pong after number %d of %d pings", last, burst), e, err)
	}
	c.notes["answered_of_200_at_once"] = answered
	return p.wantNothing(ctx)
}

// preferred: a client may change its home node at any time.
func (c *check) preferred(ctx context.Context) error {
	a, b, err := c.two(ctx)
	if err != nil {
		return err
	}
	defer a.Close()
	defer b.Close()
	src := newSource(4)
	for i := range 10 {
		a.NotePreferred(i%2 == 0)
		if err := a.pass(ctx, b, src.packet(500)); err != nil {
			return err
		}
		if err := b.pass(ctx, a, src.packet(500)); err != nil {
			return err
		}
	}
	return errors.Join(a.wantNothing(ctx), b.wantNothing(ctx))
}

// bulk: a long stream each way loses no packet, keeps its order and its content,
// as long as its sender does not overrun the receiver's queue of 32.
func (c *check) bulk(ctx context.Context) error {
	a, b, err := c.two(ctx)
	if err != nil {
		return err
	}
	defer a.Close()
	defer b.Close()
	start := time.Now()
	out := make(chan error, 4)
	c.stream(ctx, a, b, 5, out)
	c.stream(ctx, b, a, 6, out)
	for range cap(out) {
		if err := <-out; err != nil {
			return err
		}
	}
	c.notes["packets"] = 2 * c.packets
	c.notes["packets_per_second"] = int(float64(2*c.packets) / time.Since(start).Seconds())
	return errors.Join(a.wantNothing(ctx), b.wantNothing(ctx))
}

// stream starts the two ends of one direction of bulk; each reports to out.
func (c *check) stream(ctx context.Context, from, to *peer, id uint64, out chan<- error) {
	const window = 24
	inFlight := make(chan struct{}, window)
	next := func(s source) []byte { return s.packet(s.between(200, 1312)) }
	go func() {
		src := newSource(id)
		for i := range c.packets {
			select {
			case inFlight <- struct{}{}:
			case <-ctx.Done():
				out <- fmt.Errorf("packet %d could not be sent in time", i)
				return
			}
			if err := from.Send(to.key, next(src)); err != nil {
				out <- fmt.Errorf("packet %d: %w", i, err)
				return
			}
		}
		out <- nil
	}()
	go func() {
		src := newSource(id)
		for i := range c.packets {
			if err := to.wantPacket(ctx, from.key, next(src)); err != nil {
				out <- fmt.Errorf("packet %d: %w", i, err)
				return
			}
			<-inFlight
		}
		out <- nil
	}()
}

// crowd: many clients connect at once and send packets to all others; then half
// of them leave at once and the others are notified.
func (c *check) crowd(ctx context.Context) error {
	n := c.clients
	peers := make([]*peer, n)
	defer func() {
		for _, p := range peers {
			if p != nil {
				p.Close()
			}
		}
	}()
	all := func(first int, do func(i int) error) error {
		errs := make([]error, n)
		var wg sync.WaitGroup
		for i := first; i < n; i++ {
			wg.Go(func() { errs[i] = do(i) })
		}
		wg.Wait()
		for _, err := range errs {
			if err != nil {
				return err // the first error is enough
			}
		}
		return nil
	}
	if err := all(0, func(i int) (err error) {
		peers[i], err = c.join(ctx, key.NewNode())
		return err
	}); err != nil {
		return err
	}

	const each = 4
	packets := func(from, to int) [][]byte {
		src := newSource(uint64(1000 + from*n + to))
		out := make([][]byte, each)
		for i := range out {
			out[i] = src.packet(src.between(32, 1312))
		}
		return out
	}
	for round := range n {
		if err := all(0, func(i int) error {
			to, from := (i+round)%n, (i-round+n)%n
			for _, packet := range packets(i, to) {
				if err := peers[i].Send(peers[to].key, packet); err != nil {
					return err
				}
			}
			for _, packet := range packets(from, i) {
				if err := peers[i].wantPacket(ctx, peers[from].key, packet); err != nil {
					return fmt.Errorf("round %d: %w", round, err)
				}
			}
			return nil
		}); err != nil {
			return err
		}
	}
	c.notes["packets"] = n * n * each

	left := map[key.NodePublic]bool{}
	for _, p := range peers[:n/2] {
		left[p.key] = true
		p.Close()
	}
	return all(n/2, func(i int) error {
		told := map[key.NodePublic]bool{}
		for len(told) < len(left) {
			e, err := peers[i].next(ctx)
			m, ok := e.msg.(derp.PeerGoneMessage)
			if !ok || m.Reason != derp.PeerGoneReasonDisconnected || !left[m.Peer] || told[m.Peer] {
				return peers[i].unexpected(fmt.Sprintf("%d more PeerGone", len(left)-len(told)), e, err)
			}
			told[m.Peer] = true
		}
		return peers[i].wantNothing(ctx)
	})
}
