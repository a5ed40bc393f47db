package door

import (
	"runtime"
	"time"
)

// Rate is a token bucket: so many a second in the long run, and Burst of them at once. Zero
// PerSecond is no limit.
type Rate struct {
	PerSecond float64
	Burst     int
}

// Places bound the sockets of one listener. Zero is no limit.
type Places struct {
	// Sockets in all, and from one address. On loopback all have one address, so that the
	// second is only of use off it.
	Sockets, PerAddress int
	// Strangers are sockets that have not authenticated: in all, and from one address. The
	// oldest gives way to a new one, so that whoever authenticates at once gets in beside any
	// number of sockets that never do.
	Strangers, StrangersPerAddress int
}

// Limits of a Door. Processes of Solo's own are bound by Places and AuthTime alone.
type Limits struct {
	// TCP and Unix are the places of the two listeners: what fills one leaves the other free.
	TCP, Unix Places
	// AuthTime is how long a socket may take to authenticate.
	AuthTime time.Duration
	// WriteTime is how long one write to a client may block before the client is cut off.
	WriteTime time.Duration
	// Connections of one holder.
	Connections int
	// Bytes and Messages that one holder sends and gets, and Interest: subscriptions that it
	// makes and ends. What it sends beyond them waits.
	Bytes, Messages, Interest Rate
	// Violations of permissions by one holder. Each costs the server an answer and a line to
	// the audit trail; who is beyond is read later, and in small pieces.
	Violations Rate
	// Calls of one holder that wait for their answer, and of all holders. The server keeps a way
	// back for each. CallTime is how long one counts without an answer.
	Calls, CallsInAll int
	CallTime          time.Duration
}

// maxPause is how long a connection is not read at the most, in one go: below the time after
// which clients take the bus for dead.
const maxPause = 3 * time.Second

// DefaultLimits are for one machine.
//
// One holder's messages are bound to 10,000 a second and core, which is 5,000 calls with their
// answers: a call costs the node 20 to 40 µs in all, so one holder at its limit leaves the
// others most of each core. With answers not counted, a holder that had each of them delivered
// to sixteen connections brought another's p99 from 0.5 to 6 ms. Two seconds and five seconds are the
// server's own times for authentication and for writes. A hundred violations a second are far
// above what a client makes by mistake. 4096 calls under way are 40,000 a second at 100 ms
// each, and 68 requests a second to a consumer of the audit trail; 32,768 of all holders are a third of what froze every caller when the server kept as
// many ways back.
func DefaultLimits() Limits {
	cores := runtime.GOMAXPROCS(0)
	return Limits{
		TCP:         Places{Sockets: 10_000, PerAddress: 10_000, Strangers: 512, StrangersPerAddress: 256},
		Unix:        Places{Sockets: 30_000, PerAddress: 30_000, Strangers: 1024, StrangersPerAddress: 1024},
		AuthTime:    2 * time.Second,
		WriteTime:   5 * time.Second,
		Connections: 128,
		Bytes:       Rate{PerSecond: 64 << 20, Burst: 32 << 20},
		Messages:    Rate{PerSecond: float64(10_000 * cores), Burst: 1000 * cores},
		Interest:    Rate{PerSecond: 2000, Burst: 2000},
		Violations:  Rate{PerSecond: 100, Burst: 200},
		Calls:       4096,
		CallsInAll:  32_768,
		CallTime:    2 * time.Minute,
	}
}
