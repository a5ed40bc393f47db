package control

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/solo-os/solo/proto/fault"
	kernelv1 "github.com/solo-os/solo/proto/solo/kernel/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

func sized(n int) *solov1.Manifest {
	return &solov1.Manifest{Name: "acme/a", Env: map[string]string{"A": strings.Repeat("x", n)}}
}

// Whatever is added, what is registered fits, and what runs and what is new are kept.
func TestRevisionsAreKeptWithinBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		reg := &kernelv1.Registration{Name: "acme/a"}
		for range rapid.IntRange(1, 30).Draw(t, "updates") {
			before := proto.CloneOf(reg)
			next := &kernelv1.Revision{Manifest: sized(rapid.OneOf(rapid.IntRange(0, 1000), rapid.IntRange(0, 1<<20)).Draw(t, "bytes"))}
			if err := addRevision(reg, next); err != nil {
				if !fault.Is(err, fault.ReasonTooLarge) || fault.From(err).Fields[0].Path != "manifest.env" {
					t.Fatal(err)
				}
				reg = before
				continue
			}
			if proto.Size(reg) > maxRegistration || len(reg.Revisions) > maxRevisions || reg.LastRevision != before.LastRevision+1 {
				t.Fatalf("%d revisions, %d bytes", len(reg.Revisions), proto.Size(reg))
			}
			if revision(reg, next.Number) != next || before.Revision != 0 && revision(reg, before.Revision) == nil {
				t.Fatal("the new one or the one that runs is gone")
			}
			if rapid.Bool().Draw(t, "it started") {
				reg.Revision = next.Number
			}
		}
	})
}

func TestAManifestThatCannotBeKeptIsRefused(t *testing.T) {
	reg := &kernelv1.Registration{Name: "acme/a"}
	if err := addRevision(reg, &kernelv1.Revision{Manifest: sized(500 << 10)}); err != nil {
		t.Fatal(err)
	}
	reg.Revision = 1
	if err := addRevision(proto.CloneOf(reg), &kernelv1.Revision{Manifest: sized(500 << 10)}); !fault.Is(err, fault.ReasonTooLarge) {
		t.Errorf("beside what runs: %v", err)
	}
	reg.Revision = 0
	if err := addRevision(reg, &kernelv1.Revision{Manifest: sized(500 << 10)}); err != nil || len(reg.Revisions) != 1 {
		t.Errorf("nothing runs: %v", err)
	}
}
