package door

import (
	"bytes"
	"errors"
)

// Op is what a frame asks for or tells.
type Op uint8

// The operations of the client protocol. None means that more bytes are needed; Payload is a
// piece of the payload of the publish or message before it.
const (
	None Op = iota
	Info
	Connect
	Pub
	HPub
	Sub
	Unsub
	Ping
	Pong
	Msg
	HMsg
	OK
	Err
	Payload
)

// Frame is a control line, or a piece of a payload. Its slices point into the bytes given to
// Next and are good until those change.
type Frame struct {
	Op Op
	// Subject of a publish, message or subscription; Reply may be nil.
	Subject, Reply []byte
	// SID is the client's own number of a subscription.
	SID []byte
	// Arg is the rest of the line of Info, Connect and Err.
	Arg []byte
	// Max is how many messages an Unsub still lets through, 0 for none.
	Max int
	// End is true when nothing of the frame follows.
	End bool
}

// Errors of a Scanner. After one, the rest of the stream has no meaning.
var (
	ErrProtocol = errors.New("not the NATS client protocol")
	ErrLine     = errors.New("a control line is longer than allowed")
	ErrPayload  = errors.New("a payload is larger than allowed")
)

// Scanner finds the frames in one direction of a connection, however its bytes are split. It
// takes only what the server reads in exactly one way: the server forgives more (a lone
// carriage return, words after PING), but not in the same way for every split. It does not
// allocate.
type Scanner struct {
	// FromServer is true for the server's side of the protocol, false for the client's.
	FromServer bool
	// MaxLine is how long a control line may be, its end not counted; MaxPayload bounds a
	// payload, both in bytes.
	MaxLine, MaxPayload int

	rest int // bytes of the payload and its line end that have not come
}

// Next returns the first frame of b and how many bytes it takes, at most len(b). With None it
// takes none: b holds the beginning of a control line.
func (s *Scanner) Next(b []byte) (f Frame, n int, err error) {
	if s.rest > 0 {
		return s.payload(b)
	}
	if len(b) == 0 {
		return f, 0, nil
	}
	end := bytes.IndexByte(b[:min(len(b), s.MaxLine+2)], '\n')
	if end < 0 {
		switch {
		case !s.begins(b[0]):
			return f, 0, ErrProtocol
		case len(b) >= s.MaxLine+2:
			return f, 0, ErrLine
		}
		return f, 0, nil
	}
	line := bytes.TrimSuffix(b[:end], []byte{'\r'})
	if len(line) > s.MaxLine {
		return f, 0, ErrLine
	}
	if bytes.IndexByte(line, '\r') >= 0 {
		return f, 0, ErrProtocol
	}
	size := -1
	if s.FromServer {
		size, err = s.fromServer(&f, line)
	} else {
		size, err = s.fromClient(&f, line)
	}
	if err != nil {
		return Frame{}, 0, err
	}
	if size < 0 {
		f.End = true
	} else {
		s.rest = size + 2
	}
	return f, end + 1, nil
}

// Within tells whether a payload has begun and not ended.
func (s *Scanner) Within() bool { return s.rest > 0 }

func (s *Scanner) payload(b []byte) (f Frame, n int, err error) {
	n = min(len(b), s.rest)
	for i := max(0, s.rest-2); i < n; i++ {
		if want := "\n\r"[s.rest-i-1]; b[i] != want {
			return f, 0, ErrProtocol
		}
	}
	if n == 0 {
		return f, 0, nil
	}
	s.rest -= n
	return Frame{Op: Payload, End: s.rest == 0}, n, nil
}

// begins tells whether a frame can begin with c.
func (s *Scanner) begins(c byte) bool {
	if s.FromServer {
		return bytes.IndexByte([]byte("IMHP+-"), c) >= 0
	}
	return bytes.IndexByte([]byte("PHSUCI"), c&^0x20) >= 0
}

// args are the words behind the operation; no operation has more than five.
type args [5][]byte

// fromClient reads a line of the client. size is that of the payload that follows, or -1.
func (s *Scanner) fromClient(f *Frame, line []byte) (size int, err error) {
	word, rest := cut(line)
	var a args
	switch {
	case is(word, "PUB"):
		f.Op = Pub
		n := a.split(rest)
		if n != 2 && n != 3 {
			return 0, ErrProtocol
		}
		if f.Subject = a[0]; n == 3 {
			f.Reply = a[1]
		}
		return s.size(a[n-1])
	case is(word, "HPUB"):
		f.Op = HPub
		n := a.split(rest)
		if n != 3 && n != 4 {
			return 0, ErrProtocol
		}
		if f.Subject = a[0]; n == 4 {
			f.Reply = a[1]
		}
		return s.sizes(a[n-2], a[n-1])
	case is(word, "SUB"):
		f.Op = Sub
		n := a.split(rest)
		if n != 2 && n != 3 {
			return 0, ErrProtocol
		}
		f.Subject, f.SID = a[0], a[n-1]
		return -1, nil
	case is(word, "UNSUB"):
		f.Op = Unsub
		n := a.split(rest)
		if n != 1 && n != 2 {
			return 0, ErrProtocol
		}
		if f.SID = a[0]; n == 2 {
			if f.Max = number(a[1]); f.Max < 0 {
				return 0, ErrProtocol
			}
		}
		return -1, nil
	case is(word, "CONNECT"):
		return argument(f, Connect, rest)
	case is(word, "INFO"):
		return argument(f, Info, rest)
	}
	return bare(f, word, rest)
}

// fromServer is fromClient for the server's lines.
func (s *Scanner) fromServer(f *Frame, line []byte) (size int, err error) {
	word, rest := cut(line)
	var a args
	switch string(word) {
	case "MSG":
		f.Op = Msg
		n := a.split(rest)
		if n != 3 && n != 4 {
			return 0, ErrProtocol
		}
		if f.Subject, f.SID = a[0], a[1]; n == 4 {
			f.Reply = a[2]
		}
		return s.size(a[n-1])
	case "HMSG":
		f.Op = HMsg
		n := a.split(rest)
		if n != 4 && n != 5 {
			return 0, ErrProtocol
		}
		if f.Subject, f.SID = a[0], a[1]; n == 5 {
			f.Reply = a[2]
		}
		return s.sizes(a[n-2], a[n-1])
	case "INFO":
		return argument(f, Info, rest)
	case "-ERR":
		return argument(f, Err, rest)
	case "+OK":
		f.Op = OK
		return -1, nil
	}
	return bare(f, word, rest)
}

func argument(f *Frame, op Op, rest []byte) (int, error) {
	if len(rest) == 0 {
		return 0, ErrProtocol
	}
	f.Op, f.Arg = op, rest
	return -1, nil
}

// bare reads the operations that have no arguments.
func bare(f *Frame, word, rest []byte) (int, error) {
	switch {
	case len(rest) > 0:
		return 0, ErrProtocol
	case is(word, "PING"):
		f.Op = Ping
	case is(word, "PONG"):
		f.Op = Pong
	default:
		return 0, ErrProtocol
	}
	return -1, nil
}

func (s *Scanner) size(b []byte) (int, error) {
	n := number(b)
	switch {
	case n < 0:
		return 0, ErrProtocol
	case n > s.MaxPayload:
		return 0, ErrPayload
	}
	return n, nil
}

// sizes reads the size of a header and the size of the whole.
func (s *Scanner) sizes(header, whole []byte) (int, error) {
	h, n := number(header), number(whole)
	if h < 0 || n < 0 || h > n {
		return 0, ErrProtocol
	}
	return s.size(whole)
}

// maxDigits of a number, as the server has it.
const maxDigits = 9

// number reads a decimal number, -1 for anything else.
func number(b []byte) (n int) {
	if len(b) == 0 || len(b) > maxDigits {
		return -1
	}
	for _, c := range b {
		if c < '0' || c > '9' {
			return -1
		}
		n = n*10 + int(c-'0')
	}
	return n
}

func blank(c byte) bool { return c == ' ' || c == '\t' }

// cut parts the operation from its arguments.
func cut(line []byte) (word, rest []byte) {
	i := 0
	for i < len(line) && !blank(line[i]) {
		i++
	}
	word, rest = line[:i], line[i:]
	for len(rest) > 0 && blank(rest[0]) {
		rest = rest[1:]
	}
	return word, rest
}

// split parts b at blanks and returns how many words there are; those beyond the fifth are
// counted and not kept.
func (a *args) split(b []byte) (n int) {
	for i := 0; i < len(b); {
		if blank(b[i]) {
			i++
			continue
		}
		from := i
		for i < len(b) && !blank(b[i]) {
			i++
		}
		if n < len(a) {
			a[n] = b[from:i]
		}
		n++
	}
	return n
}

// is tells whether word is op, which is in capitals, in any case of letters.
func is(word []byte, op string) bool {
	if len(word) != len(op) {
		return false
	}
	for i, c := range word {
		if c&^0x20 != op[i] {
			return false
		}
	}
	return true
}
