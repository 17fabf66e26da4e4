//! What a call ends with when it does not end well.

use std::fmt;

use urd::error::{Code, Status};

/// A status the server sent, or what became of the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The server's answer: a gRPC status other than OK.
    Status { code: Code, message: String },
    /// The connection failed, or the peer does not speak gRPC: nobody knows whether the request was carried out.
    Transport(String),
}

impl Error {
    pub fn code(&self) -> Option<Code> {
        match self {
            Error::Status { code, .. } => Some(*code),
            Error::Transport(_) => None,
        }
    }

    pub fn message(&self) -> &str {
        match self {
            Error::Status { message, .. } | Error::Transport(message) => message,
        }
    }

    /// Whether it is this row of the table of errors, code and text.
    pub fn is(&self, status: &Status) -> bool {
        self.code() == Some(status.code) && self.message() == status.message
    }

    pub(crate) fn transport(cause: impl fmt::Display) -> Self {
        Error::Transport(cause.to_string())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Status { code, message } => write!(f, "rpc error: code = {} desc = {message}", code.name()),
            Error::Transport(cause) => write!(f, "connection: {cause}"),
        }
    }
}

impl std::error::Error for Error {}

impl From<h2::Error> for Error {
    fn from(cause: h2::Error) -> Self {
        Error::transport(cause)
    }
}
