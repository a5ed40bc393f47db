package artifact_test

import (
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/solo-os/solo/bus/jstest"
	"github.com/solo-os/solo/deployer/internal/artifact"
	"github.com/solo-os/solo/proto/fault"
	kernelv1 "github.com/solo-os/solo/proto/solo/kernel/v1"
)

// line is the part of a holder before the point.
func line(holder string) string { l, _, _ := strings.Cut(holder, "."); return l }

func begin(t *testing.T, u *artifact.Uploads, holder, name string) error {
	t.Helper()
	_, err := u.Put(t.Context(), holder, &kernelv1.PutChunkRequest{Upload: name, Data: []byte("x")})
	return err
}

// However many children a holder makes, there is a place for everybody else.
func TestAttackOneLineOfHoldersTakesAllPlaces(t *testing.T) {
	u := artifact.NewUploads(open(t, jstest.New(t), t.TempDir()), artifact.UploadLimits{Line: line})
	taken := 0
	for i := range 100 {
		if begin(t, u, "evil."+strconv.Itoa(i/4), strconv.Itoa(i)) == nil {
			taken++
		}
	}
	if taken != 16 {
		t.Errorf("one line has %d places", taken)
	}
	for i := range 100 {
		_ = begin(t, u, "worse."+strconv.Itoa(i/4), strconv.Itoa(i)) // all places are taken now
	}
	for i := range 4 {
		if err := begin(t, u, "good.1", strconv.Itoa(i)); err != nil {
			t.Fatalf("place %d: %v", i, err)
		}
	}
	if err := begin(t, u, "good.1", "5"); !fault.Is(err, fault.ReasonRateLimited) {
		t.Errorf("a fifth of one holder: %v", err)
	}
}

func TestAPlaceIsForBytes(t *testing.T) {
	var dead atomic.Bool
	s := jstest.New(t)
	u := artifact.NewUploads(open(t, s, t.TempDir()), artifact.UploadLimits{Open: 1, Live: func(h string) bool { return h != "dead" || !dead.Load() }})
	for name, r := range map[string]*kernelv1.PutChunkRequest{
		"empty": {Upload: "a"}, "empty later": {Upload: "a", Offset: 1},
	} {
		if _, err := u.Put(t.Context(), "h", r); !fault.Is(err, fault.ReasonInvalidArgument) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A question takes no place.
	sha := artifact.Digest([]byte("xy"))
	if r, err := u.Put(t.Context(), "h", &kernelv1.PutChunkRequest{Upload: "a", Sha256: sha}); err != nil || r.GetStored() {
		t.Errorf("%v %v", r, err)
	}
	if err := begin(t, u, "dead", "a"); err != nil {
		t.Fatal(err)
	}
	if err := begin(t, u, "h", "b"); !fault.Is(err, fault.ReasonRateLimited) {
		t.Errorf("a second: %v", err)
	}
	dead.Store(true)
	if err := begin(t, u, "h", "b"); err != nil {
		t.Errorf("a dead holder keeps its place: %v", err)
	}
	if _, err := u.Put(t.Context(), "h", &kernelv1.PutChunkRequest{Upload: "b", Offset: 1}); !fault.Is(err, fault.ReasonInvalidArgument) {
		t.Errorf("an empty chunk in the middle: %v", err)
	}
}

// A byte now and then does not keep a place.
func TestAttackAnUploadOfOneByteAMinute(t *testing.T) {
	store := open(t, jstest.New(t), t.TempDir())
	synctest.Test(t, func(t *testing.T) {
		u := artifact.NewUploads(store, artifact.UploadLimits{Open: 1})
		if err := begin(t, u, "evil", "a"); err != nil {
			t.Fatal(err)
		}
		for at := range 3 {
			time.Sleep(30 * time.Second)
			_, _ = u.Put(t.Context(), "evil", &kernelv1.PutChunkRequest{Upload: "a", Offset: uint64(at + 1), Data: []byte("x")}) // in the end it is refused
			err := begin(t, u, "good", "b")
			if err == nil && at > 0 {
				return
			}
			if !fault.Is(err, fault.ReasonRateLimited) {
				t.Fatalf("after %d: %v", at, err)
			}
		}
		t.Error("the place was not freed")
	})
}
