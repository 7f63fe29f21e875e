package main

import (
	"io"
	"net"
	"sync"
)

// A cut is a TCP relay in front of the server whose connections break on
// demand.
type cut struct {
	net.Listener
	server string

	mu    sync.Mutex
	pairs []*pair
}

// A pair is one relayed connection.
type pair struct {
	client, server *net.TCPConn

	// held keeps the server's half open when the client's is gone. Guarded by
	// cut.mu.
	held bool
}

func newCut(server string) (*cut, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	c := &cut{Listener: ln, server: server}
	go c.serve()
	return c, nil
}

func (c *cut) port() string {
	_, port, _ := net.SplitHostPort(c.Addr().String())
	return port
}

func (c *cut) serve() {
	for {
		client, err := c.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", c.server)
		if err != nil {
			client.Close()
			continue
		}
		p := &pair{client: client.(*net.TCPConn), server: server.(*net.TCPConn)}
		c.mu.Lock()
		c.pairs = append(c.pairs, p)
		c.mu.Unlock()
		go c.copy(p, p.client, p.server)
		go c.copy(p, p.server, p.client)
	}
}

func (c *cut) copy(p *pair, to, from *net.TCPConn) {
	_, _ = io.Copy(to, from)
	c.mu.Lock()
	defer c.mu.Unlock()
	if !p.held {
		p.client.Close()
		p.server.Close()
	}
}

// end closes all connections in an orderly way.
func (c *cut) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.pairs {
		p.client.Close()
		p.server.Close()
	}
	c.pairs = nil
}

// reset resets all connections: both ends get ECONNRESET.
func (c *cut) reset() {
	c.mu.Lock()
	for _, p := range c.pairs {
		_ = p.client.SetLinger(0)
		_ = p.server.SetLinger(0)
	}
	c.mu.Unlock()
	c.end()
}

// vanish breaks only the clients' halves: the server gets no packet, as when a
// laptop wakes up on another network.
func (c *cut) vanish() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.pairs {
		p.held = true
		_ = p.client.SetLinger(0)
		p.client.Close()
	}
}

// release closes the halves that vanish left open.
func (c *cut) release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.pairs {
		if p.held {
			p.server.Close()
		}
	}
}
