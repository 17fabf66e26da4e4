//! Every error a client can be given, with etcd's code and text to the letter: client libraries compare the text.
//! One table; nothing else in the tree spells these strings.

use std::borrow::Cow;

/// gRPC status codes, by their numbers on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Code {
    Ok = 0,
    Canceled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Aborted = 10,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    DataLoss = 15,
    Unauthenticated = 16,
}

impl Code {
    /// How many codes there are; their numbers are 0..COUNT.
    pub const COUNT: usize = 17;

    /// In order of their numbers.
    pub const ALL: [Code; Code::COUNT] = [
        Code::Ok,
        Code::Canceled,
        Code::Unknown,
        Code::InvalidArgument,
        Code::DeadlineExceeded,
        Code::NotFound,
        Code::AlreadyExists,
        Code::PermissionDenied,
        Code::ResourceExhausted,
        Code::FailedPrecondition,
        Code::Aborted,
        Code::OutOfRange,
        Code::Unimplemented,
        Code::Internal,
        Code::Unavailable,
        Code::DataLoss,
        Code::Unauthenticated,
    ];

    /// The code of a number on the wire, if there is one.
    pub fn of_number(number: u32) -> Option<Code> {
        Code::ALL.get(usize::try_from(number).ok()?).copied()
    }

    /// The name as grpc-go prints it and as the metric label `grpc_code` carries it.
    pub fn name(self) -> &'static str {
        match self {
            Code::Ok => "OK",
            Code::Canceled => "Canceled",
            Code::Unknown => "Unknown",
            Code::InvalidArgument => "InvalidArgument",
            Code::DeadlineExceeded => "DeadlineExceeded",
            Code::NotFound => "NotFound",
            Code::AlreadyExists => "AlreadyExists",
            Code::PermissionDenied => "PermissionDenied",
            Code::ResourceExhausted => "ResourceExhausted",
            Code::FailedPrecondition => "FailedPrecondition",
            Code::Aborted => "Aborted",
            Code::OutOfRange => "OutOfRange",
            Code::Unimplemented => "Unimplemented",
            Code::Internal => "Internal",
            Code::Unavailable => "Unavailable",
            Code::DataLoss => "DataLoss",
            Code::Unauthenticated => "Unauthenticated",
        }
    }
}

/// A status as it goes into gRPC trailers: a code and a message. Static text for etcd's own errors, so that
/// refusing a request allocates nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    pub code: Code,
    pub message: Cow<'static, str>,
}

impl Status {
    pub const OK: Status = Status::fixed(Code::Ok, "");

    pub const fn fixed(code: Code, message: &'static str) -> Self {
        Status { code, message: Cow::Borrowed(message) }
    }

    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Status { code, message: Cow::Owned(message.into()) }
    }

    pub fn unimplemented(message: impl Into<String>) -> Self {
        Status::new(Code::Unimplemented, message)
    }

    pub fn internal(message: impl Into<String>) -> Self {
        Status::new(Code::Internal, message)
    }

    pub fn is_ok(&self) -> bool {
        self.code == Code::Ok
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "rpc error: code = {} desc = {}", self.code.name(), self.message)
    }
}

impl std::error::Error for Status {}

macro_rules! table {
    ($($name:ident: $code:ident, $text:expr;)*) => {
        $(pub const $name: Status = Status::fixed(Code::$code, $text);)*

        /// Every row of the table, for the test that walks it.
        pub const ALL: &[Status] = &[$($name),*];
    };
}

// etcd 3.7: api/v3rpc/rpctypes and the texts that reach the wire as Unknown.
table! {
    EMPTY_KEY: InvalidArgument, "etcdserver: key is not provided";
    KEY_NOT_FOUND: InvalidArgument, "etcdserver: key not found";
    VALUE_PROVIDED: InvalidArgument, "etcdserver: value is provided";
    LEASE_PROVIDED: InvalidArgument, "etcdserver: lease is provided";
    TOO_MANY_OPS: InvalidArgument, "etcdserver: too many operations in txn request";
    DUPLICATE_KEY: InvalidArgument, "etcdserver: duplicate key given in txn request";
    INVALID_CLIENT_API_VERSION: InvalidArgument, "etcdserver: invalid client api version";
    INVALID_SORT_OPTION: InvalidArgument, "etcdserver: invalid sort option";
    COMPACTED: OutOfRange, "etcdserver: mvcc: required revision has been compacted";
    FUTURE_REV: OutOfRange, "etcdserver: mvcc: required revision is a future revision";
    NO_SPACE: ResourceExhausted, "etcdserver: mvcc: database space exceeded";
    LEASE_NOT_FOUND: NotFound, "etcdserver: requested lease not found";
    LEASE_EXIST: FailedPrecondition, "etcdserver: lease already exists";
    LEASE_TTL_TOO_LARGE: OutOfRange, "etcdserver: too large lease TTL";
    WATCH_CANCELED: Canceled, "etcdserver: watch canceled";
    WATCH_ID_DUPLICATE: Unknown, "mvcc: duplicate watch ID provided on the WatchStream";
    WATCH_RANGE_EMPTY: Unknown, "mvcc: watcher range is empty";
    MEMBER_EXIST: FailedPrecondition, "etcdserver: member ID already exist";
    PEER_URL_EXIST: FailedPrecondition, "etcdserver: Peer URLs already exists";
    MEMBER_NOT_ENOUGH_STARTED: Unknown, "etcdserver: re-configuration failed due to not enough started members";
    MEMBER_BAD_URLS: InvalidArgument, "etcdserver: given member URLs are invalid";
    MEMBER_NOT_FOUND: NotFound, "etcdserver: member not found";
    MEMBER_NOT_LEARNER: FailedPrecondition, "etcdserver: can only promote a learner member";
    LEARNER_NOT_READY: FailedPrecondition, "etcdserver: can only promote a learner member which is in sync with leader";
    TOO_MANY_LEARNERS: FailedPrecondition, "etcdserver: too many learner members in cluster";
    CLUSTER_ID_MISMATCH: FailedPrecondition, "etcdserver: cluster ID mismatch";
    REQUEST_TOO_LARGE: InvalidArgument, "etcdserver: request is too large";
    TOO_MANY_REQUESTS: Unknown, "etcdserver: too many requests";
    ROOT_USER_NOT_EXIST: FailedPrecondition, "etcdserver: root user does not exist";
    ROOT_ROLE_NOT_EXIST: FailedPrecondition, "etcdserver: root user does not have root role";
    USER_ALREADY_EXIST: FailedPrecondition, "etcdserver: user name already exists";
    USER_EMPTY: InvalidArgument, "etcdserver: user name is empty";
    USER_NOT_FOUND: FailedPrecondition, "etcdserver: user name not found";
    ROLE_ALREADY_EXIST: FailedPrecondition, "etcdserver: role name already exists";
    ROLE_NOT_FOUND: FailedPrecondition, "etcdserver: role name not found";
    ROLE_EMPTY: InvalidArgument, "etcdserver: role name is empty";
    AUTH_FAILED: InvalidArgument, "etcdserver: authentication failed, invalid user ID or password";
    PERMISSION_NOT_GIVEN: InvalidArgument, "etcdserver: permission not given";
    PERMISSION_DENIED: PermissionDenied, "etcdserver: permission denied";
    ROLE_NOT_GRANTED: FailedPrecondition, "etcdserver: role is not granted to the user";
    PERMISSION_NOT_GRANTED: FailedPrecondition, "etcdserver: permission is not granted to the role";
    AUTH_NOT_ENABLED: FailedPrecondition, "etcdserver: authentication is not enabled";
    INVALID_AUTH_TOKEN: Unauthenticated, "etcdserver: invalid auth token";
    INVALID_AUTH_MGMT: InvalidArgument, "etcdserver: invalid auth management";
    AUTH_OLD_REVISION: InvalidArgument, "etcdserver: revision of auth store is old";
    NO_PASSWORD_USER: Unknown, "auth: authentication failed, password was given for no password user";
    PASSWORD_TOO_LONG: Unknown, "bcrypt: password length exceeds 72 bytes";
    VERIFY_ONLY_KEY: Unknown, "auth: token signing attempted with verify-only key";
    NO_LEADER: Unavailable, "etcdserver: no leader";
    NOT_LEADER: FailedPrecondition, "etcdserver: not leader";
    LEADER_CHANGED: Unavailable, "etcdserver: leader changed";
    NOT_CAPABLE: FailedPrecondition, "etcdserver: not capable";
    STOPPED: Unavailable, "etcdserver: server stopped";
    TIMEOUT: Unavailable, "etcdserver: request timed out";
    TIMEOUT_DUE_TO_LEADER_FAIL: Unavailable, "etcdserver: request timed out, possibly due to previous leader failure";
    TIMEOUT_DUE_TO_CONNECTION_LOST: Unavailable, "etcdserver: request timed out, possibly due to connection lost";
    TIMEOUT_WAIT_APPLIED_INDEX: Unavailable, "etcdserver: request timed out, waiting for the applied index took too long";
    UNHEALTHY: Unavailable, "etcdserver: unhealthy cluster";
    CORRUPT: DataLoss, "etcdserver: corrupt cluster";
    NOT_SUPPORTED_FOR_LEARNER: FailedPrecondition, "etcdserver: rpc not supported for learner";
    BAD_LEADER_TRANSFEREE: FailedPrecondition, "etcdserver: bad leader transferee";
    WRONG_DOWNGRADE_VERSION_FORMAT: InvalidArgument, "etcdserver: wrong downgrade target version format";
    INVALID_DOWNGRADE_TARGET_VERSION: InvalidArgument, "etcdserver: invalid downgrade target version";
    CLUSTER_VERSION_UNAVAILABLE: FailedPrecondition, "etcdserver: cluster version not found during downgrade";
    DOWNGRADE_IN_PROCESS: FailedPrecondition, "etcdserver: cluster has a downgrade job in progress";
    NO_INFLIGHT_DOWNGRADE: FailedPrecondition, "etcdserver: no inflight downgrade job";
    TIMEOUT_LEADER_TRANSFER: Unknown, "etcdserver: request timed out, leader transfer took too long";
    NOT_PRIMARY_LESSOR: Unknown, "not a primary lessor";
    ELECTION_NO_LEADER: Unknown, "election: no leader";
    ELECTION_NOT_LEADER: Unknown, "election: not leader";
    ELECTION_LEADER_MISSING: Unknown, "\"leader\" field must be provided";
    SESSION_EXPIRED: Unknown, "mutex: session is expired";
    REQUEST_CANCELED: Canceled, "etcdserver: request canceled";
    REQUEST_DEADLINE_EXCEEDED: DeadlineExceeded, "etcdserver: context deadline exceeded";
    CONTEXT_CANCELED: Canceled, "context canceled";
    DEADLINE_EXCEEDED: DeadlineExceeded, "context deadline exceeded";
    RANGE_STREAM_NO_SORT: Unimplemented, "RangeStream does not support custom sort orders";
    STREAM_PIN_TOO_OLD: ResourceExhausted, "range stream is read too slowly: its revision was held for too long";
    SNAPSHOT_PIN_TOO_OLD: ResourceExhausted, "snapshot is read too slowly: its revision was held for too long";
    SNAPSHOT_PIN_TOO_LARGE: ResourceExhausted, "snapshot is read too slowly: it holds too much of the log that nobody else needs";
    NO_UNARY_MESSAGE: Unknown, "EOF";
    TOO_MANY_UNFINISHED: ResourceExhausted, "grpc: too many bytes of unfinished messages";
    NO_REQUEST_MESSAGE: Internal, "cardinality violation: received no request message from non-client-streaming RPC";
    HEALTH_UNKNOWN_SERVICE: NotFound, "unknown service";
    UNKNOWN_METHOD: Unknown, "etcdserver: unknown method";
    RANGE_STREAM_NO_FILTER: Unimplemented, "RangeStream does not support revision filters";
}

/// The request of a unary call that is not what its method takes, in grpc-go's words.
pub fn undecodable(cause: &prost::DecodeError) -> Status {
    Status::internal(format!("grpc: error unmarshalling request: {}", decode_cause(cause)))
}

/// The same in a stream.
pub fn undecodable_in_stream(cause: &prost::DecodeError) -> Status {
    Status::internal(format!("grpc: failed to unmarshal the received message: {}", decode_cause(cause)))
}

fn decode_cause(cause: &prost::DecodeError) -> &'static str {
    match cause.to_string().contains("UTF-8") {
        true => "string field contains invalid UTF-8",
        false => "proto: cannot parse invalid wire-format data",
    }
}

/// A reply that gRPC cannot carry, in grpc-go's words.
pub fn send_too_large(len: usize, max: usize) -> Status {
    Status::new(Code::ResourceExhausted, format!("grpc: trying to send message larger than max ({len} vs. {max})"))
}

/// A message that is larger than is let in, in grpc-go's words.
pub fn received_too_large(len: usize, max: usize) -> Status {
    Status::new(Code::ResourceExhausted, format!("grpc: received message larger than max ({len} vs. {max})"))
}

/// A body of HTTP that is larger than any that a message which is let in may need.
pub fn body_too_large(max: usize) -> Status {
    Status::new(Code::ResourceExhausted, format!("the body of the request is larger than {max} bytes"))
}

/// A method that this version does not serve, in grpc-go's words.
pub fn method_unimplemented(method: &str) -> Status {
    Status::unimplemented(format!("method {method} not implemented"))
}

/// A stored value could not be read: of kind InvalidData, because what is there is not what was written.
pub fn unreadable(cause: &std::io::Error) -> Status {
    let code = match cause.kind() {
        std::io::ErrorKind::InvalidData => Code::DataLoss,
        _ => Code::Internal,
    };
    Status::new(code, format!("a stored value could not be read: {cause}"))
}

/// The system's text for an error as Go spells it: no capital, no number.
pub fn in_go_words(cause: &std::io::Error) -> String {
    let text = cause.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    letters.next().map(|first| first.to_lowercase().chain(letters).collect()).unwrap_or_default()
}

/// A file that cannot be opened, as Go tells of it.
pub fn cannot_open(path: &std::path::Path) -> impl FnOnce(std::io::Error) -> String + '_ {
    move |cause| format!("open {}: {}", path.display(), in_go_words(&cause))
}
