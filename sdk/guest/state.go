package guest

import (
	"context"

	"github.com/solo-os/solo/sdk/guest/abi"
)

// Store is the service's keyed state, shared by its instances and kept as its manifest says. Keys
// are 1 to 512 bytes.
type Store struct{}

// Change is one part of a Batch. A nil Value deletes the key.
type Change struct {
	Key   string
	Value []byte
}

// State returns the service's state.
func State() Store { return Store{} }

// Get returns the value of a key and whether it is there.
func (Store) Get(ctx context.Context, key string) (value []byte, ok bool, err error) {
	f, err := ask(ctx, abi.OpStateGet, abi.Strings(key), 1)
	if err != nil {
		return nil, false, err
	}
	return f[0], f[0] != nil, nil
}

// Put sets a key.
func (Store) Put(ctx context.Context, key string, value []byte) error {
	_, err := ask(ctx, abi.OpStatePut, abi.Fields{[]byte(key), present(value)}, 0)
	return err
}

// Delete removes a key; that it was not there is no error.
func (Store) Delete(ctx context.Context, key string) error {
	_, err := ask(ctx, abi.OpStateDelete, abi.Strings(key), 1)
	return err
}

// List returns all keys with a prefix, ascending.
func (Store) List(ctx context.Context, prefix string) (keys []string, err error) {
	after := ""
	for {
		page, err := ask(ctx, abi.OpStateList, abi.Strings(prefix, after), -1)
		if err != nil {
			return nil, err
		}
		keys = append(keys, page.Strings()...)
		if len(page) < abi.ListPage {
			return keys, nil
		}
		after = keys[len(keys)-1]
	}
}

// CompareAndSet sets a key to new if it still holds old; a nil old means it must be absent, a nil
// new deletes it.
func (Store) CompareAndSet(ctx context.Context, key string, old, new []byte) (swapped bool, err error) {
	f, err := ask(ctx, abi.OpStateCAS, abi.Fields{[]byte(key), old, new}, 1)
	if err != nil {
		return false, err
	}
	return string(f[0]) == abi.True, nil
}

// Batch makes all changes or none.
func (Store) Batch(ctx context.Context, changes ...Change) error {
	f := make(abi.Fields, 0, 2*len(changes))
	for _, c := range changes {
		f = append(f, []byte(c.Key), c.Value)
	}
	_, err := ask(ctx, abi.OpStateBatch, f, 0)
	return err
}

// present tells an empty value from an absent one.
func present(v []byte) []byte {
	if v == nil {
		return []byte{}
	}
	return v
}
