package e2e

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/nats-io/nkeys"
)

// canaries finds secrets in whatever it is shown: those it was told of, as text, as the bytes behind
// the text, and as base64 and hex of either, and any other seed that stands somewhere as text.
type canaries struct {
	seeds map[string]string // name by seed
	first []bool            // by the first two bytes of a needle
	by    map[uint64][]needle
}

// strange stands before the public key of a seed that nobody told of.
const strange = "the seed of "

type needle struct {
	name string
	b    []byte
}

func newCanaries() *canaries {
	return &canaries{seeds: map[string]string{}, first: make([]bool, 1<<16), by: map[uint64][]needle{}}
}

// add takes a seed into the search.
func (c *canaries) add(t *testing.T, name, seed string) {
	t.Helper()
	_, raw, err := nkeys.DecodeSeed([]byte(seed))
	if err != nil {
		t.Fatal(err)
	}
	c.seeds[seed] = name
	needles := [][]byte{[]byte(seed), raw}
	for _, b := range needles[:2:2] {
		needles = append(needles, []byte(hex.EncodeToString(b)), []byte(strings.ToUpper(hex.EncodeToString(b))))
		for _, e := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
			for before := range 3 { // it may stand anywhere inside of what is encoded
				s := e.EncodeToString(append(make([]byte, before), b...))
				if (before+len(b))%3 != 0 {
					s = s[:len(s)-1] // shared with what comes after
				}
				needles = append(needles, []byte(s[(before*8+5)/6:]))
			}
		}
	}
	for _, b := range needles {
		c.first[binary.LittleEndian.Uint16(b)] = true
		k := binary.LittleEndian.Uint64(b)
		c.by[k] = append(c.by[k], needle{name, b})
	}
}

// find names the secrets that stand in b.
func (c *canaries) find(b []byte) (names []string) {
	note := func(name string) {
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	for i := 0; i+8 <= len(b); i++ {
		if c.first[uint16(b[i])|uint16(b[i+1])<<8] {
			for _, n := range c.by[binary.LittleEndian.Uint64(b[i:])] {
				if bytes.HasPrefix(b[i:], n.b) {
					note(n.name)
				}
			}
		}
		if b[i] == 'S' && i+58 <= len(b) && strings.IndexByte("UACONX", b[i+1]) >= 0 {
			if kp, err := nkeys.FromSeed(b[i : i+58]); err == nil && c.seeds[string(b[i:i+58])] == "" {
				id, _ := kp.PublicKey() // the seed is good
				note(strange + id)
			}
		}
	}
	return names
}

// without is text with the secrets taken out that stand there as they are.
func (c *canaries) without(s string) string {
	for seed, name := range c.seeds {
		s = strings.ReplaceAll(s, seed, "<"+name+">")
	}
	return strings.TrimSpace(s)
}

// found is where secrets were found, by their names.
type found map[string][]string

func (f found) note(where string, names []string) {
	for _, n := range names {
		if !slices.Contains(f[n], where) {
			f[n] = append(f[n], where)
		}
	}
}

// files looks at every file below dir but the binaries. A handle's own file may hold that handle.
func (c *canaries) files(t *testing.T, dir string, own map[string]string, f found) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil // it came and went
		case err != nil:
			return err
		case d.IsDir() && path == filepath.Join(dir, "bin"):
			return fs.SkipDir
		case !d.Type().IsRegular():
			return nil
		}
		b, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		f.note(path, slices.DeleteFunc(c.find(b), func(name string) bool { return own[path] == name }))
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// processes looks at the arguments and the environment of every process that can be looked at, and at
// whether those that run from home could leave a memory image behind. It tells how many of home there were.
func (c *canaries) processes(home string, f found) (n int) {
	dirs, _ := filepath.Glob("/proc/[0-9]*") // the pattern is well-formed
	for _, d := range dirs {
		if filepath.Base(d) == strconv.Itoa(os.Getpid()) {
			continue
		}
		exe, err := os.Readlink(filepath.Join(d, "exe"))
		ours := err == nil && strings.HasPrefix(exe, home+"/")
		program := filepath.Base(exe)
		for _, part := range []string{"cmdline", "environ", "limits"} {
			b, err := os.ReadFile(filepath.Join(d, part))
			if err != nil {
				continue // it has ended, or is somebody else's
			}
			names := c.find(b)
			if ours {
				n++
			} else {
				names = slices.DeleteFunc(names, func(s string) bool { return strings.HasPrefix(s, strange) }) // not of this world
			}
			f.note(part+" of "+program, names)
			if part == "limits" && ours && strings.HasPrefix(program, "solo-") && !bytes.Contains(bytes.Join(bytes.Fields(b), []byte(" ")), []byte("Max core file size 0 0")) {
				f.note(part+" of "+program, []string{"memory images are allowed"})
			}
		}
	}
	return n
}
