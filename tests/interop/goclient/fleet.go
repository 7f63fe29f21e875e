package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"tailscale.com/derp"
	"tailscale.com/derp/derphttp"
	"tailscale.com/net/netmon"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

// How often each client of a fleet sends itself a packet.
const fleetBeat = 50 * time.Millisecond

// How long a fleet continues after the last command, so that all clients that
// were dialling have logged in.
const fleetRest = 5 * time.Second

// A wanderer is one client of a fleet: it sends itself packets, and records the
// longest time without one.
type wanderer struct {
	*derphttp.Client
	key         key.NodePublic
	last        time.Time
	longest     time.Duration
	connections int
}

// fleet: many clients of a region of one or two nodes; each node is the first
// of half of them. While they send packets to themselves, the calling test
// restarts nodes and reports this on standard input, line by line; the end of
// standard input ends the fleet. The notes have the longest interruptions.
func (c *check) fleet(ctx context.Context) error {
	log.SetOutput(io.Discard) // the lines about reconnects are not needed
	nodes := []*tailcfg.DERPNode{}
	for _, at := range append([]string{c.url.Host}, c.others...) {
		ap, err := netip.ParseAddrPort(at)
		if err != nil {
			return fmt.Errorf("nodes are given by their addresses: %w", err)
		}
		nodes = append(nodes, &tailcfg.DERPNode{
			Name: at, RegionID: 900, HostName: ap.Addr().String(), IPv4: ap.Addr().String(), IPv6: "none",
			DERPPort: int(ap.Port()), CertName: c.pin,
		})
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var ready, done sync.WaitGroup
	var failed atomic.Value
	wanderers := make([]*wanderer, c.clients)
	for i := range wanderers {
		mine := slices.Clone(nodes)
		if i%2 == 1 {
			slices.Reverse(mine)
		}
		region := &tailcfg.DERPRegion{RegionID: 900, RegionCode: "check", Nodes: mine}
		k := key.NewNode()
		w := &wanderer{
			Client: derphttp.NewRegionClient(k, log.Printf, netmon.NewStatic(), func() *tailcfg.DERPRegion { return region }),
			key:    k.Public(),
		}
		wanderers[i] = w
		ready.Add(1)
		done.Add(2)
		go func() { defer done.Done(); w.send(ctx) }()
		go func() {
			defer done.Done()
			if err := w.receive(ctx, ready.Done); err != nil {
				failed.CompareAndSwap(nil, err)
			}
		}()
	}
	ready.Wait()
	fmt.Fprintln(os.Stderr, "fleet: all are in")
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return err
	}
	time.Sleep(fleetRest)
	now := time.Now()
	stop()
	for _, w := range wanderers {
		w.Close()
	}
	done.Wait()
	if err, ok := failed.Load().(error); ok {
		return err
	}
	silences, moved := []time.Duration{}, 0
	for _, w := range wanderers {
		silences = append(silences, max(w.longest, now.Sub(w.last)))
		if w.connections > 1 {
			moved++
		}
	}
	slices.Sort(silences)
	c.notes["moved"] = moved
	c.notes["longest_silence_ms"] = silences[len(silences)-1].Milliseconds()
	c.notes["median_silence_ms"] = silences[len(silences)/2].Milliseconds()
	return nil
}

func (w *wanderer) send(ctx context.Context) {
	for count := uint64(0); ctx.Err() == nil; count++ {
		// An error is the end of a connection; the client dials again by itself.
		w.Send(w.key, binary.BigEndian.AppendUint64(nil, count))
		time.Sleep(fleetBeat)
	}
}

func (w *wanderer) receive(ctx context.Context, first func()) error {
	gen := -1
	for ctx.Err() == nil {
		message, now, err := w.RecvDetail()
		if err != nil {
			time.Sleep(time.Millisecond) // the node may not listen yet
			continue
		}
		if now != gen {
			gen = now
			w.connections++
		}
		packet, ok := message.(derp.ReceivedPacket)
		if !ok {
			continue
		}
		if packet.Source != w.key {
			return fmt.Errorf("a packet of another key's came: %v", packet.Source)
		}
		came := time.Now()
		if w.last.IsZero() {
			first()
		} else {
			w.longest = max(w.longest, came.Sub(w.last))
		}
		w.last = came
	}
	return nil
}
