//! The span of a call, from its head to its end, with the attributes that OpenTelemetry has for gRPC. Made where the call is
//! sampled only; while nothing is traced a call costs one look at the settings. (opentelemetry-go-contrib: otelgrpc,
//! stats_handler.go.)

use super::{Metadata, Origin, Settings};
use crate::{
    error::{Code, Status},
    observe::{metrics::methods, trace::Span},
    runtime::socket::Address,
};

/// The span of a call with how the call ends, as far as that is known.
pub(super) struct Traced {
    pub span: Span,
    /// A call that ends without a word of how was given up by its caller.
    code: Code,
}

impl Traced {
    #[inline]
    pub fn begin(settings: &Settings, method: u16, metadata: &Metadata, origin: &Origin) -> Option<Box<Self>> {
        match settings.tracer {
            None => None,
            Some(_) => Self::of_call(settings, method, metadata, origin),
        }
    }

    #[cold]
    fn of_call(settings: &Settings, method: u16, metadata: &Metadata, origin: &Origin) -> Option<Box<Self>> {
        let tracer = settings.tracer.as_ref()?;
        let (service, name, _) = methods::METHODS[usize::from(method)];
        let full_name = || format!("{service}/{name}");
        let span = tracer.of_call(full_name, metadata.get("traceparent"), metadata.get("tracestate"))?;
        span.describe(|say| {
            say.text("rpc.method", full_name().as_bytes());
            say.text("rpc.system.name", b"grpc");
            match origin.local.as_deref() {
                Some(Address::Inet(address)) => {
                    say.text("server.address", address.ip().to_string().as_bytes());
                    say.int("server.port", i64::from(address.port()));
                }
                Some(Address::Unix(path)) => say.text("server.address", path.as_os_str().as_encoded_bytes()),
                None => {}
            }
        });
        Some(Box::new(Traced { span, code: Code::Canceled }))
    }

    /// The call ends so. What the caller itself has done wrong is no failure of the server's.
    pub fn note(&mut self, status: &Status) {
        self.code = status.code;
        let failures = [
            Code::Unknown,
            Code::DeadlineExceeded,
            Code::Unimplemented,
            Code::Internal,
            Code::Unavailable,
            Code::DataLoss,
        ];
        if failures.contains(&status.code) {
            self.span.fail(&status.message);
        }
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        self.span.describe(|say| say.text("rpc.response.status_code", canonical(self.code).as_bytes()));
        self.span.end();
    }
}

/// A code as OpenTelemetry spells it.
fn canonical(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Canceled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
