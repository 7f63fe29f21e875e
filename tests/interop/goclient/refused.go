package main

import (
	"context"
	"errors"

	"tailscale.com/derp"
	"tailscale.com/types/key"
)

// refused: a server that rejects the client sends a Health frame with the
// problem instead of ServerInfo, and closes.
func (c *check) refused(ctx context.Context) error {
	p, err := c.lonely(ctx, key.NewNode())
	if err != nil {
		return err
	}
	defer p.Close()
	e, err := p.next(ctx)
	problem, ok := e.msg.(derp.HealthMessage)
	if !ok {
		return p.unexpected("a problem", e, err)
	}
	if problem.Problem == "" {
		return errors.New("the problem is empty, which means that there is none")
	}
	c.notes["problem"] = problem.Problem
	if e, err = p.next(ctx); err != nil || e.err == nil {
		return p.unexpected("the end", e, err)
	}
	return nil
}
