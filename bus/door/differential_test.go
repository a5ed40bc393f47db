package door

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"pgregory.net/rapid"
)

// What the scanner takes for frames, the server does, too: it answers as many PINGs and
// delivers the very publishes, however either of them gets the stream cut up.
func TestServerReadsTheSame(t *testing.T) {
	s, err := natsserver.NewServer(&natsserver.Options{DontListen: true, NoLog: true, NoSigs: true, MaxPayload: maxPayload, MaxControlLine: maxClientLine})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("the server does not start")
	}
	rapid.Check(t, func(t *rapid.T) {
		stream := draw(t)
		sc := client()
		frames, taken, err := read(sc, stream, whole)
		if err != nil || taken != len(stream) || len(frames) > 0 && strings.HasSuffix(frames[len(frames)-1], "false") {
			return // not a stream of whole frames
		}
		want, pings := published(frames)
		c, err := s.InProcessConn()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		got, gotPings, err := converse(c, stream, func() int { return rapid.IntRange(1, 64).Draw(t, "piece") }, pings)
		if err != nil || gotPings != pings || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("%q:\nserver  %q, %d pings, %v\nscanner %q, %d pings", stream, got, gotPings, err, want, pings)
		}
	})
}

// draw makes a stream of frames in all the forms that the protocol allows, and now and then one
// that is none.
func draw(t *rapid.T) []byte {
	var b bytes.Buffer
	word := rapid.StringMatching(`[a-z]{1,8}(\.[a-z]{1,5})?`)
	gap := rapid.SampledFrom([]string{" ", "\t", "  ", " \t"})
	ends := []string{"\r\n", "\n", " \r\n"}
	if rapid.IntRange(0, 9).Draw(t, "odd") == 0 {
		ends = append(ends, "\r", "\r\r\n")
	}
	end := rapid.SampledFrom(ends)
	op := func(s string) string {
		if rapid.Bool().Draw(t, "lower") {
			return strings.ToLower(s)
		}
		return s
	}
	for range rapid.IntRange(1, 12).Draw(t, "frames") {
		g := gap.Draw(t, "gap")
		switch rapid.IntRange(0, 5).Draw(t, "kind") {
		case 0, 1:
			p := rapid.SliceOfN(rapid.Byte(), 0, 200).Draw(t, "payload")
			reply := ""
			if rapid.Bool().Draw(t, "reply") {
				reply = word.Draw(t, "inbox") + g
			}
			fmt.Fprintf(&b, "%s%s%s%s%s%d%s%s\r\n", op("PUB"), g, word.Draw(t, "subject"), g, reply, len(p), end.Draw(t, "end"), p)
		case 2:
			h := "NATS/1.0\r\nA: b\r\n\r\n"
			p := rapid.SliceOfN(rapid.Byte(), 0, 50).Draw(t, "payload")
			fmt.Fprintf(&b, "%s%s%s%s%d%s%d%s%s%s\r\n", op("HPUB"), g, word.Draw(t, "subject"), g, len(h), g, len(h)+len(p), end.Draw(t, "end"), h, p)
		case 3:
			fmt.Fprintf(&b, "%s%s", op("PING"), end.Draw(t, "end"))
		case 4:
			fmt.Fprintf(&b, "%s%sother.%s%sx%d%s", op("SUB"), g, word.Draw(t, "subject"), g, rapid.IntRange(0, 9).Draw(t, "sid"), end.Draw(t, "end"))
		case 5:
			fmt.Fprintf(&b, "%s%sx%d%s", op("UNSUB"), g, rapid.IntRange(0, 9).Draw(t, "sid"), end.Draw(t, "end"))
		}
	}
	return b.Bytes()
}

// published are the publishes among frames, as subject, reply and size, and how many PINGs there are.
func published(frames []string) (out []string, pings int) {
	last := ""
	for _, f := range frames {
		var op int
		var subject, reply string
		if n, err := fmt.Sscanf(f, "payload %d", &op); err == nil && n == 1 {
			out = append(out, fmt.Sprintf("%s %d", last, op-2))
			continue
		}
		if _, err := fmt.Sscanf(f, "%d %q %q", &op, &subject, &reply); err != nil {
			panic(err)
		}
		last = subject + " " + reply
		if Op(op) == Ping {
			pings++
		}
	}
	return out, pings
}

// converse sends the stream to the server in pieces and reads what comes back: messages to a
// subscription of everything, and answers to PING, of which there is one more at the end.
func converse(c net.Conn, stream []byte, piece func() int, pings int) (got []string, pongs int, err error) {
	var pieces [][]byte
	for rest := stream; len(rest) > 0; {
		n := min(piece(), len(rest))
		pieces, rest = append(pieces, rest[:n]), rest[n:]
	}
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		_, _ = io.WriteString(c, "CONNECT {\"verbose\":false,\"headers\":true}\r\nSUB > 1\r\n")
		for _, p := range pieces {
			if _, err := c.Write(p); err != nil {
				return // the server has ended it, which the reader sees
			}
		}
		_, _ = io.WriteString(c, "PING\r\n")
	}()
	defer func() { _ = c.Close(); <-sent }()
	r := bufio.NewReader(c)
	sc := server()
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return got, pongs, err
		}
		f, _, err := sc.Next(line)
		if err != nil {
			return got, pongs, err
		}
		switch f.Op {
		case Msg, HMsg:
			if string(f.SID) == "1" {
				got = append(got, fmt.Sprintf("%s %s %d", f.Subject, f.Reply, sc.rest-2))
			}
			if _, err := r.Discard(sc.rest); err != nil {
				return got, pongs, err
			}
			sc.rest = 0
		case Pong:
			if pongs == pings {
				return got, pongs, nil
			}
			pongs++
		case Err:
			return got, pongs, fmt.Errorf("%s", f.Arg)
		}
	}
}
