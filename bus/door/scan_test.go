package door

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// read scans a stream that arrives in pieces, and writes down what it finds. at gives the size
// of the next piece.
func read(s Scanner, stream []byte, at func() int) (frames []string, taken int, err error) {
	var have []byte
	payload := 0
	for {
		for {
			f, n, err := s.Next(have)
			if n > len(have) || n < 0 {
				panic("the scanner takes more than there is")
			}
			if err != nil {
				return frames, taken, err
			}
			if n == 0 {
				break
			}
			taken += n
			have = have[n:]
			if f.Op == Payload {
				// How a payload is cut up is the splitting's; how long it is is not.
				if payload += n; f.End {
					frames = append(frames, fmt.Sprintf("payload %d", payload))
					payload = 0
				}
				continue
			}
			frames = append(frames, fmt.Sprintf("%d %q %q %q %q %d %t", f.Op, f.Subject, f.Reply, f.SID, f.Arg, f.Max, f.End))
		}
		if len(stream) == 0 {
			return frames, taken, nil
		}
		n := max(1, min(at(), len(stream)))
		have = append(have, stream[:n]...)
		stream = stream[n:]
	}
}

func whole() int { return 1 << 30 }

func client() Scanner { return Scanner{MaxLine: maxClientLine, MaxPayload: maxPayload} }

func server() Scanner {
	return Scanner{FromServer: true, MaxLine: maxServerLine, MaxPayload: maxServerPayload}
}

func TestScanClient(t *testing.T) {
	for in, want := range map[string][]string{
		"CONNECT {\"a\":1}\r\nPING\r\n":          {`2 "" "" "" "{\"a\":1}" 0 true`, `7 "" "" "" "" 0 true`},
		"pub a 5\r\nhello\r\n":                   {`3 "a" "" "" "" 0 false`, "payload 7"},
		"PUB a r\t5 \r\nhello\r\nPONG\r\n":       {`3 "a" "r" "" "" 0 false`, "payload 7", `8 "" "" "" "" 0 true`},
		"PUB a 0\r\n\r\nSUB b 1\n":               {`3 "a" "" "" "" 0 false`, "payload 2", `5 "b" "" "1" "" 0 true`},
		"HPUB a 12 13\r\nNATS/1.0\r\n\r\nx\r\n":  {`4 "a" "" "" "" 0 false`, "payload 15"},
		"HPUB a r 0 0\r\n\r\n":                   {`4 "a" "r" "" "" 0 false`, "payload 2"},
		"SUB a q 7\r\nUNSUB 7\r\nUNSUB 7 12\r\n": {`5 "a" "" "7" "" 0 true`, `6 "" "" "7" "" 0 true`, `6 "" "" "7" "" 12 true`},
		"INFO {}\r\nPING \r\n":                   {`1 "" "" "" "{}" 0 true`, `7 "" "" "" "" 0 true`},
		"PUB a 5\r\nhel":                         {`3 "a" "" "" "" 0 false`},
		"SU":                                     nil,
	} {
		got, _, err := read(client(), []byte(in), whole)
		if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%q:\n got %q %v\nwant %q", in, got, err, want)
		}
	}
}

func TestScanServer(t *testing.T) {
	for in, want := range map[string][]string{
		"INFO {\"client_id\":7}\r\n":                      {`1 "" "" "" "{\"client_id\":7}" 0 true`},
		"MSG a 1 5\r\nhello\r\n+OK\r\n":                   {`9 "a" "" "1" "" 0 false`, "payload 7", `11 "" "" "" "" 0 true`},
		"MSG a 1 r 0\r\n\r\n":                             {`9 "a" "r" "1" "" 0 false`, "payload 2"},
		"HMSG a 1 12 13\r\nNATS/1.0\r\n\r\nx\r\nPING\r\n": {`10 "a" "" "1" "" 0 false`, "payload 15", `7 "" "" "" "" 0 true`},
		"HMSG a 1 r 12 12\r\nNATS/1.0\r\n\r\n\r\n":        {`10 "a" "r" "1" "" 0 false`, "payload 14"},
		"-ERR 'Permissions Violation'\r\nPONG\r\n":        {`12 "" "" "" "'Permissions Violation'" 0 true`, `8 "" "" "" "" 0 true`},
	} {
		got, _, err := read(server(), []byte(in), whole)
		if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%q:\n got %q %v\nwant %q", in, got, err, want)
		}
	}
}

func TestScanRefuses(t *testing.T) {
	long := strings.Repeat("a", maxClientLine)
	for in, want := range map[string]error{
		"\r\n": ErrProtocol, "GET / HTTP/1.1\r\n": ErrProtocol, "X": ErrProtocol, "+OK\r\n": ErrProtocol, "-ERR 'x'\r\n": ErrProtocol,
		"PUB a\r\n": ErrProtocol, "PUB a b c 5\r\n": ErrProtocol, "PUB a -1\r\n": ErrProtocol, "PUB a 1234567890\r\n": ErrProtocol,
		"PUB a 5x\r\n": ErrProtocol, "PUB a\rb 5\r\n": ErrProtocol, "PUB a 5\r\r\n": ErrProtocol, "PUB a 1\r\nxy\r\n": ErrProtocol,
		"PUB a 1\r\nx\n": ErrProtocol, "HPUB a 5 4\r\n": ErrProtocol, "HPUB a 5\r\n": ErrProtocol, "SUB a\r\n": ErrProtocol,
		"SUB a b c d\r\n": ErrProtocol, "UNSUB\r\n": ErrProtocol, "UNSUB 1 x\r\n": ErrProtocol, "UNSUB 1 2 3\r\n": ErrProtocol,
		"CONNECT\r\n": ErrProtocol, "CONNECT \r\n": ErrProtocol, "CONNECTx\r\n": ErrProtocol, "PING x\r\n": ErrProtocol, "PINGG\r\n": ErrProtocol,
		"MSG a 1 0\r\n": ErrProtocol, "P\x00NG\r\n": ErrProtocol, "p\x55b\r\n": ErrProtocol,
		"PUB a 2097153\r\n": ErrPayload, "HPUB a 1 2097153\r\n": ErrPayload, "SUB " + long: ErrLine, "SUB " + long + " 1\r\n": ErrLine,
	} {
		if got, _, err := read(client(), []byte(in), whole); !errors.Is(err, want) {
			t.Errorf("%.40q: %v (%v), want %v", in, err, got, want)
		}
	}
	for in, want := range map[string]error{
		"PUB a 0\r\n": ErrProtocol, "MSG a 1\r\n": ErrProtocol, "msg a 1 0\r\n": ErrProtocol, "HMSG a 1 5 4\r\n": ErrProtocol, "HMSG a 1 5\r\n": ErrProtocol,
	} {
		if got, _, err := read(server(), []byte(in), whole); !errors.Is(err, want) {
			t.Errorf("%.40q: %v (%v), want %v", in, err, got, want)
		}
	}
}

func TestScanDoesNotAllocate(t *testing.T) {
	in := []byte("PUB svc.a.b.c.U _INBOX.U.x.y 5\r\nhello\r\nSUB _INBOX.U.> 1\r\nPING\r\n")
	if n := testing.AllocsPerRun(100, func() {
		s := client()
		for b := in; len(b) > 0; {
			_, n, err := s.Next(b)
			if err != nil || n == 0 {
				t.Fatal(n, err)
			}
			b = b[n:]
		}
	}); n > 0 {
		t.Errorf("%g allocations", n)
	}
}

// Any bytes give the same frames however they are split, and never more bytes than there are.
func FuzzScan(f *testing.F) {
	for _, s := range []string{
		"CONNECT {}\r\nPING\r\nPUB a r 5\r\nhello\r\nSUB a 1\r\n", "HPUB a 12 13\r\nNATS/1.0\r\n\r\nx\r\nUNSUB 1 2\r\n", "PUB a 0\n\r\n",
		"MSG a 1 5\r\nhello\r\nHMSG a 1 r 12 12\r\nNATS/1.0\r\n\r\n\r\n", "-ERR 'x'\r\n+OK\r\nINFO {}\r\n", "PUB a\rb 1\n", "SUB a\x00 1\r\n", "\xff",
	} {
		f.Add([]byte(s), []byte{1, 2, 3}, false)
		f.Add([]byte(s), []byte{1}, true)
	}
	f.Fuzz(func(t *testing.T, stream, cuts []byte, fromServer bool) {
		s := Scanner{FromServer: fromServer, MaxLine: 64, MaxPayload: 256}
		want, taken, werr := read(s, stream, whole)
		i := 0
		got, again, gerr := read(s, stream, func() int {
			if len(cuts) == 0 {
				return 1
			}
			i++
			return int(cuts[i%len(cuts)])
		})
		if werr != nil && gerr != nil {
			// A payload's wrong end is found with its piece; up to there all is the same.
			n := min(len(want), len(got))
			want, got = want[:n], got[:n]
			again = taken
		}
		if fmt.Sprint(got) != fmt.Sprint(want) || (gerr == nil) != (werr == nil) || again != taken {
			t.Fatalf("%q in pieces:\n got %q %d %v\nwant %q %d %v", stream, got, again, gerr, want, taken, werr)
		}
	})
}

// Streams made of frames are read as they were made.
func TestScanRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		word := rapid.StringMatching(`[!-~]{1,20}`)
		var stream bytes.Buffer
		var want []string
		for range rapid.IntRange(0, 20).Draw(t, "frames") {
			end := rapid.SampledFrom([]string{"\r\n", "\n", " \r\n"}).Draw(t, "end")
			a, b := word.Draw(t, "a"), word.Draw(t, "b")
			switch rapid.IntRange(0, 3).Draw(t, "kind") {
			case 0:
				p := rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "payload")
				fmt.Fprintf(&stream, "PUB %s %s %d%s%s\r\n", a, b, len(p), end, p)
				want = append(want, fmt.Sprintf("3 %q %q %q %q 0 false", a, b, "", ""), fmt.Sprintf("payload %d", len(p)+2))
			case 1:
				fmt.Fprintf(&stream, "SUB %s %s%s", a, b, end)
				want = append(want, fmt.Sprintf("5 %q %q %q %q 0 true", a, "", b, ""))
			case 2:
				fmt.Fprintf(&stream, "PING%s", end)
				want = append(want, `7 "" "" "" "" 0 true`)
			case 3:
				fmt.Fprintf(&stream, "UNSUB %s 3%s", b, end)
				want = append(want, fmt.Sprintf("6 %q %q %q %q 3 true", "", "", b, ""))
			}
		}
		got, taken, err := read(client(), stream.Bytes(), func() int { return rapid.IntRange(1, 40).Draw(t, "piece") })
		if err != nil || taken != stream.Len() || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("%q:\n got %q %v\nwant %q", stream.Bytes(), got, err, want)
		}
	})
}
