// Package home is the folder that a Solo lives in, SOLO_HOME, private to its user (0700):
//
//	node.json     the node's name, how its store is run, how often the kernel has started
//	root.nk       the first operator's handle (0600)
//	keys/         root.pub, and chain.nk, the seed that signs the capability chain (0600)
//	caps.head     the signed head of that chain, outside the store
//	clock         how late it has been, for when the machine's clock is set back
//	bus/          the store of the bus
//	run/          sockets, and addresses.json while all of Solo is ready
//	kernel.lock   held by the one kernel of this home, with its pid
package home

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/nats-io/nkeys"
)

// Home is an opened home, locked against a second kernel until Close.
type Home struct {
	Dir string
	// Node is the stable name of this node, from its first boot.
	Node string
	// Epoch rises with each start of the kernel.
	Epoch uint64
	// RootID is the public key of the first operator.
	RootID string
	// Chain signs capability events.
	Chain nkeys.KeyPair
	// FirstBoot is true when this start made the identities.
	FirstBoot bool

	lock *os.File
}

type node struct {
	Name string `json:"name"`
	// Store is standalone: a clustered kernel must not start on it, the server would delete its streams.
	Store string `json:"store"`
	Epoch uint64 `json:"epoch"`
}

// Open makes what is missing and takes the lock.
func Open(dir string) (*Home, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	for _, d := range []string{dir, filepath.Join(dir, "keys"), filepath.Join(dir, "run"), filepath.Join(dir, "bus")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("home: %w", err)
		}
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return nil, fmt.Errorf("home: %w", err)
	}
	// A Unix socket's path is at most 107 bytes, and runners' lie below run/.
	if len(dir) > 70 {
		return nil, fmt.Errorf("home %s has a path of %d bytes; Unix sockets below it need at most 70: choose a shorter SOLO_HOME", dir, len(dir))
	}
	h := &Home{Dir: dir}
	if h.lock, err = os.OpenFile(filepath.Join(dir, "kernel.lock"), os.O_CREATE|os.O_RDWR, 0o600); err != nil {
		return nil, fmt.Errorf("home: %w", err)
	}
	if err := syscall.Flock(int(h.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("home %s is in use by another solo-kernel%s", dir, h.owner()), h.lock.Close())
	}
	// Who holds the lock is for people to read; the lock itself is the kernel's.
	if _, err := h.lock.WriteAt(fmt.Appendf(nil, "%-20d\n", os.Getpid()), 0); err != nil {
		return nil, errors.Join(fmt.Errorf("home: %w", err), h.Close())
	}
	if err := errors.Join(h.node(), h.chain(), h.root()); err != nil {
		return nil, errors.Join(err, h.Close())
	}
	if err := os.Remove(h.Addresses()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, errors.Join(err, h.Close())
	}
	return h, nil
}

// Close gives the lock back.
func (h *Home) Close() error { return h.lock.Close() }

// owner names the process that holds the lock, empty where the file does not say.
func (h *Home) owner() string {
	b := make([]byte, 20)
	n, _ := h.lock.ReadAt(b, 0) // nothing to read is nothing to say
	pid := strings.TrimSpace(string(b[:n]))
	if pid == "" {
		return ""
	}
	return " (pid " + pid + ")"
}

// Head is the file of the capability chain's signed head.
func (h *Home) Head() string { return filepath.Join(h.Dir, "caps.head") }

// Addresses is the file that says where Solo listens.
func (h *Home) Addresses() string { return filepath.Join(h.Dir, "run", "addresses.json") }

// Closed is the file that says why user space stays closed, while it does.
func (h *Home) Closed() string { return filepath.Join(h.Dir, "run", "closed.json") }

// RootHandle is the file of the first operator's handle.
func (h *Home) RootHandle() string { return filepath.Join(h.Dir, "root.nk") }

func (h *Home) node() error {
	path := filepath.Join(h.Dir, "node.json")
	n := node{Store: "standalone"}
	b, err := os.ReadFile(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		h.FirstBoot = true
		n.Name = "node-" + strings.ToLower(rand.Text()[:8])
	case err != nil:
		return fmt.Errorf("home: %w", err)
	default:
		if err := json.Unmarshal(b, &n); err != nil || n.Name == "" {
			return fmt.Errorf("home: %s is damaged (%v): restore it, it holds the name of this node", path, err)
		}
	}
	if n.Store != "standalone" {
		return fmt.Errorf("home: the store of %s is run as %q, this kernel runs standalone only", h.Dir, n.Store)
	}
	n.Epoch++
	h.Node, h.Epoch = n.Name, n.Epoch
	if b, err = json.Marshal(n); err != nil {
		return err
	}
	return WriteFile(path, append(b, '\n'))
}

func (h *Home) chain() error {
	path := filepath.Join(h.Dir, "keys", "chain.nk")
	seed, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		kp, err := nkeys.CreateAccount()
		if err != nil {
			return err
		}
		if seed, err = kp.Seed(); err != nil {
			return err
		}
		if err := WriteFile(path, append(seed, '\n')); err != nil {
			return err
		}
	} else if err != nil {
		return fmt.Errorf("home: %w", err)
	}
	if h.Chain, err = nkeys.FromSeed([]byte(strings.TrimSpace(string(seed)))); err != nil {
		return fmt.Errorf("home: %s holds no seed: %w", path, err)
	}
	return nil
}

func (h *Home) root() error {
	path := filepath.Join(h.Dir, "keys", "root.pub")
	b, err := os.ReadFile(path)
	if err == nil {
		h.RootID = strings.TrimSpace(string(b))
		return nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("home: %w", err)
	}
	kp, err := nkeys.CreateUser()
	if err != nil {
		return err
	}
	seed, err := kp.Seed()
	if err != nil {
		return err
	}
	if h.RootID, err = kp.PublicKey(); err != nil {
		return err
	}
	// The handle first: a public key without it would lock everybody out.
	if err := WriteFile(h.RootHandle(), append(seed, '\n')); err != nil {
		return err
	}
	return WriteFile(path, []byte(h.RootID+"\n"))
}

// WriteFile writes a private file (0600) atomically and durably.
func WriteFile(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
