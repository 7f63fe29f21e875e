// Derpcheck tests a DERP server with the real client's code
// (tailscale.com/derp/derphttp) and prints one JSON verdict.
//
//	derpcheck -url http://127.0.0.1:3340 relay
//	derpcheck -url https://127.0.0.1:8443 -pin sha256-raw:HEX [-tls 1.2] bulk
//
// It exits 0 when the server passed, 1 when it failed, 2 on wrong usage.
// The client's log goes to standard error.
package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"tailscale.com/envknob"
)

// A check is one run of one scenario against one server.
type check struct {
	target
	proxied bool     // a proxy terminates TLS
	packets int      // bulk: packets each way
	clients int      // crowd: clients at once, even
	maxSize int      // largest packet sent, in bytes
	others  []string // fleet: further nodes, by their addresses
	notes   map[string]any
}

var scenarios = map[string]func(*check, context.Context) error{
	"bulk":       (*check).bulk,
	"crowd":      (*check).crowd,
	"duplicates": (*check).duplicates,
	"eager":      (*check).eager,
	"fleet":      (*check).fleet,
	"gone":       (*check).gone,
	"gone-again": (*check).goneAgain,
	"identity":   (*check).identity,
	"ping":       (*check).ping,
	"preferred":  (*check).preferred,
	"reconnect":  (*check).reconnect,
	"refused":    (*check).refused,
	"relay":      (*check).relay,
}

// A verdict is the output: a single line of JSON.
type verdict struct {
	Scenario string         `json:"scenario"`
	OK       bool           `json:"ok"`
	Error    string         `json:"error,omitempty"`
	Seconds  float64        `json:"seconds"`
	Notes    map[string]any `json:"notes"`
}

func main() {
	c := &check{notes: map[string]any{}}
	at := flag.String("url", "", "server: http://host:port or https://host:port")
	flag.StringVar(&c.pin, "pin", "", "CertName of the DERP map, sha256-raw:HEX; empty: the system's roots decide")
	tlsVersion := flag.String("tls", "", "1.2: offer no newer TLS, so that there is no fast start")
	flag.BoolVar(&c.proxied, "proxied", false, "a proxy ends TLS, so that there is no meta certificate")
	websocket := flag.Bool("websocket", false, "come as a browser's client does")
	timeout := flag.Duration("timeout", 30*time.Second, "time for the whole scenario")
	flag.IntVar(&c.packets, "packets", 100_000, "bulk: packets each way")
	flag.IntVar(&c.clients, "clients", 50, "crowd: clients at once")
	flag.IntVar(&c.maxSize, "max-size", 65536, "largest packet to send")
	others := flag.String("others", "", "fleet: further nodes of the region, IP:PORT,...")
	names := slices.Sorted(maps.Keys(scenarios))
	flag.Usage = func() {
		fmt.Fprintf(os.Stderr, "usage: derpcheck -url URL [flags] %s\n", strings.Join(names, "|"))
		flag.PrintDefaults()
	}
	flag.Parse()

	scenario, known := scenarios[flag.Arg(0)]
	var err error
	c.url, err = url.Parse(*at)
	if !known || flag.NArg() != 1 || err != nil || c.url.Port() == "" || c.clients < 2 || c.clients%2 != 0 {
		flag.Usage()
		os.Exit(2)
	}
	switch *tlsVersion {
	case "":
	case "1.2":
		c.tlsMax = tls.VersionTLS12
	default:
		flag.Usage()
		os.Exit(2)
	}

	c.others = strings.FieldsFunc(*others, func(r rune) bool { return r == ',' })

	if *websocket {
		envknob.Setenv("TS_DEBUG_DERP_WS_CLIENT", "1") // effective with build tag ts_debug_websockets
	}

	ctx, cancel := context.WithTimeout(context.Background(), *timeout)
	defer cancel()
	start := time.Now()
	err = c.path(ctx)
	if err == nil {
		err = scenario(c, ctx)
	}
	v := verdict{Scenario: flag.Arg(0), OK: err == nil, Seconds: time.Since(start).Seconds(), Notes: c.notes}
	if err != nil {
		v.Error = err.Error()
	}
	if err := json.NewEncoder(os.Stdout).Encode(v); err != nil {
		panic(err)
	}
	if !v.OK {
		os.Exit(1)
	}
}
