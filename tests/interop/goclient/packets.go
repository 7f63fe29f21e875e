package main

import (
	"encoding/binary"
	"math/rand/v2"
)

// discoMagic is the prefix of the packets with which peers find a direct path.
// A relay treats such packets of 62 bytes or more differently: they have a
// separate queue, and only they are answered with PeerGone(not here).
const (
	discoMagic = "TS💬"
	discoMin   = 62
)

// A source returns packets that both ends of a test can compute.
type source struct{ *rand.ChaCha8 }

func newSource(id uint64) source {
	var seed [32]byte
	binary.BigEndian.PutUint64(seed[:], id)
	return source{rand.NewChaCha8(seed)}
}

// packet returns n bytes that begin unlike a disco packet.
func (s source) packet(n int) []byte {
	b := make([]byte, n)
	_, _ = s.Read(b) // documented to never fail
	if n > 0 {
		b[0] |= 0x80
	}
	return b
}

// disco returns the first n bytes of a disco packet.
func (s source) disco(n int) []byte {
	b := s.packet(n)
	copy(b, discoMagic)
	return b
}

// between returns a number from low to high.
func (s source) between(low, high int) int { return low + int(s.Uint64()%uint64(high-low+1)) }
