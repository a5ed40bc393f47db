// Package check names the checks that keep holders apart, so that a test which shows that an
// attack fails has a twin in which exactly one of them is off and the attack succeeds: that is
// how the test is known to bite.
//
// In every ordinary build On is a constant that the compiler removes. Only a build with tag
// checksoff, which tests make, can switch a check off, by its name in the environment variable
// SOLO_CHECKS_OFF.
package check

// Name of a check.
type Name string

// Variable of the environment names the checks that are off, separated by commas, in a build
// with tag checksoff. No other build reads it.
const Variable = "SOLO_CHECKS_OFF"

// What the fence does when somebody connects.
const (
	// Signature: a CONNECT proves its key by signing the nonce that the server made for this
	// connection.
	Signature Name = "signature"
	// OneConnect: a connection says who it is once.
	OneConnect Name = "one-connect"
	// Liveness: a revoked key does not connect.
	Liveness Name = "liveness"
	// Register: a connection is registered under the lock that revocation takes, so that it is
	// either refused or known to the one who cuts.
	Register Name = "register"
	// Dismissal: the identity of a process of Solo's own ends with the process.
	Dismissal Name = "dismissal"
	// Epoch: a newer placement's keys end those of older ones.
	Epoch Name = "epoch"
)

// What a revocation or an expiry does to those who are connected.
const (
	// Cut: the live connections of what was revoked are closed.
	Cut Name = "cut"
	// Shootdown: every gate knows of a revocation before it is acknowledged.
	Shootdown Name = "shootdown"
	// Expiry: an expired capability is no capability, and its connection ends.
	Expiry Name = "expiry"
	// BootClock: expiry counts on the clock that nobody can set, too.
	BootClock Name = "boot-clock"
)

// What a connection may publish and hear.
const (
	// PublishAllow: a holder publishes only what its rules compile to.
	PublishAllow Name = "publish-allow"
	// OwnID: what a holder publishes ends in its own id.
	OwnID Name = "own-id"
	// OwnInbox: a holder listens in its own inbox only.
	OwnInbox Name = "own-inbox"
	// ServingPublish: a key that answers for a service publishes nothing but answers.
	ServingPublish Name = "serving-publish"
	// ServingQueue: it hears calls only as a member of the service's queue group.
	ServingQueue Name = "serving-queue"
	// RolePublish: a process of Solo's own publishes what its role takes.
	RolePublish Name = "role-publish"
	// OneAnswer: it answers a request once.
	OneAnswer Name = "one-answer"
)

// Where the borders of the accounts lie.
const (
	// Borders: nothing of JetStream and no `rev.` subject is imported into CALLER. Off, the
	// server is configured as one would who trusts holders with a bucket.
	Borders Name = "borders"
	// ImportShape: every import keeps its subject. Off, one system call is imported under a
	// second, literal name.
	ImportShape Name = "import-shape"
)

// What gates do with each message.
const (
	// Gate: every component and runner asks its table about every message.
	Gate Name = "gate"
	// Lease: a process that has lost touch with the fence does not act, and is ended.
	Lease Name = "lease"
	// Effect: a runner asks again when a call begins, however long after it came.
	Effect Name = "effect"
	// Tokens: the tokens of a subject are names, not patterns.
	Tokens Name = "tokens"
	// About: a request is about the service in its subject, which is what was checked.
	About Name = "about"
	// RequestHolder: a request id belongs to the holder who used it.
	RequestHolder Name = "request-holder"
)

// What is granted.
const (
	// Subset: what is granted is within what the granter has.
	Subset Name = "subset"
	// Depth: each grant may be passed on less far than the one it comes from.
	Depth Name = "depth"
	// FreshID: an id is given once.
	FreshID Name = "fresh-id"
	// Below: one revokes only what one has granted, or what came of it.
	Below Name = "below"
	// Endowment: what a service is given is within what its deployer has.
	Endowment Name = "endowment"
)

// What the gateway does.
const (
	// HolderKey: calls go out on the connection of the handle that they came with.
	HolderKey Name = "holder-key"
	// OneHandle: a call presents exactly one handle.
	OneHandle Name = "one-handle"
)
