package fault

// Reasons are stable: clients and models branch on them, so a name once given is never
// changed and never reused for something else.
const (
	// What was sent cannot be read or breaks a stated rule; details name the fields.
	ReasonInvalidArgument = "INVALID_ARGUMENT"
	// A subject with the wrong number of tokens, empty tokens or wildcards.
	ReasonInvalidSubject = "INVALID_SUBJECT"
	// A payload, artifact or field is larger than its bound.
	ReasonTooLarge = "TOO_LARGE"
	// The manifest contradicts itself or names fields that do not exist.
	ReasonManifestInvalid = "MANIFEST_INVALID"
	// The source does not compile; details carry the diagnostics.
	ReasonBuildFailed = "BUILD_FAILED"
	// The bytes are no WASM module, or a damaged one.
	ReasonModuleInvalid = "MODULE_INVALID"
	// The module lacks an export that its ABI asks for.
	ReasonModuleExportMissing = "MODULE_EXPORT_MISSING"
	// The module imports what Solo does not offer.
	ReasonModuleImportUnknown = "MODULE_IMPORT_UNKNOWN"
	// The module is beyond a bound on tables, memories or functions.
	ReasonModuleLimit = "MODULE_LIMIT"
	// The bytes are no static executable for this machine.
	ReasonBinaryInvalid = "BINARY_INVALID"
	// Nothing of that name exists, or nothing that the caller may know of.
	ReasonServiceNotFound    = "SERVICE_NOT_FOUND"
	ReasonInstanceNotFound   = "INSTANCE_NOT_FOUND"
	ReasonArtifactNotFound   = "ARTIFACT_NOT_FOUND"
	ReasonRevisionNotFound   = "REVISION_NOT_FOUND"
	ReasonCapabilityNotFound = "CAPABILITY_NOT_FOUND"
	// The service exists already and runs; Update changes it.
	ReasonServiceExists = "SERVICE_EXISTS"
	// The service is there but no instance answers.
	ReasonServiceNotRunning = "SERVICE_NOT_RUNNING"
	// The service has no such operation; metadata lists those it has.
	ReasonOperationUnknown = "OPERATION_UNKNOWN"
	// The service's own code returned an error; the message is its text.
	ReasonServiceError = "SERVICE_ERROR"
	// The instance crashed while it worked on the call.
	ReasonInstanceCrashed = "INSTANCE_CRASHED"
	// The call ran longer than its deadline and was stopped.
	ReasonDeadlineExceeded = "DEADLINE_EXCEEDED"
	// The instance needed more memory than its limit.
	ReasonMemoryLimit = "MEMORY_LIMIT"
	// Too many messages wait already.
	ReasonMailboxFull = "MAILBOX_FULL"
	// More calls a second than allowed.
	ReasonRateLimited = "RATE_LIMITED"
	// Too many calls of the holder wait for their answers already.
	ReasonTooManyCalls = "TOO_MANY_CALLS"
	// The service was throttled for being over a limit.
	ReasonThrottled = "THROTTLED"
	// The instance did not become ready.
	ReasonStartFailed = "START_FAILED"
	// State is at its quota.
	ReasonStateQuota = "STATE_QUOTA"
	// State cannot be written now, for instance because the disk is full.
	ReasonStateUnavailable = "STATE_UNAVAILABLE"
	// A newer placement has taken over.
	ReasonEpochFenced = "EPOCH_FENCED"
	// No handle was sent, or not a handle.
	ReasonUnauthenticated = "UNAUTHENTICATED"
	// The handle is unknown, revoked or expired. One answer for all three, so that guessing learns nothing.
	ReasonHandleRefused = "HANDLE_REFUSED"
	// The capability does not hold the right; metadata says what is missing and who could grant it.
	ReasonNotGranted = "NOT_GRANTED"
	// A grant is wider than the granting capability.
	ReasonGrantTooWide = "GRANT_TOO_WIDE"
	// A grant is deeper, longer or larger than the granting capability allows.
	ReasonGrantDepth  = "GRANT_DEPTH"
	ReasonGrantBudget = "GRANT_BUDGET"
	ReasonGrantExpiry = "GRANT_EXPIRY"
	// A budget of the capability, or of one above it, has no room; metadata says which, and how much is left.
	ReasonBudget = "BUDGET_EXCEEDED"
	// The id is in use.
	ReasonCapabilityExists = "CAPABILITY_EXISTS"
	// The grant happened on an earlier try, and its handle was never stored.
	ReasonHandleNotRepeatable = "HANDLE_NOT_REPEATABLE"
	// The request id was used with other arguments.
	ReasonRequestIDReused = "REQUEST_ID_REUSED"
	// Someone else changed it first; read again and retry.
	ReasonConflict = "CONFLICT"
	// The operation could not be written to the audit trail, so it was not done.
	ReasonAuditUnavailable = "AUDIT_UNAVAILABLE"
	// A part of Solo does not answer at this moment.
	ReasonUnavailable = "UNAVAILABLE"
	// This gate's lease has run out: it has lost touch with the rest and acts no more.
	ReasonLeaseExpired = "LEASE_EXPIRED"
	// Solo is shutting down.
	ReasonShuttingDown = "SHUTTING_DOWN"
	// Known, and not built yet.
	ReasonUnimplemented = "UNIMPLEMENTED"
	// The stored records do not fit together; an operator must look.
	ReasonDataLoss = "DATA_LOSS"
	// A defect of Solo itself.
	ReasonInternal = "INTERNAL"
)
