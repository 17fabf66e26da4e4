//! Spans as OTLP spells them: the few messages of it that are sent here, by their numbers. (opentelemetry-proto 1.x:
//! trace/v1/trace.proto, common/v1/common.proto, collector/trace/v1/trace_service.proto.)

use prost::Message;

use super::{Attributes, Event, Finished, Kind, Settings, Value};

/// The method that takes them.
pub(super) const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

/// Who has made a span, by the names that etcd gives: what is set up to find etcd's finds urd's.
const SCOPE_OF_CALLS: (&str, &str) =
    ("go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc", "0.68.0");
const SCOPE_WITHIN: (&str, &str) = ("go.etcd.io/etcd", "");

/// The flag that it is known where the parent is, and the one that it is elsewhere. (SpanFlags.)
const PARENT_IS_KNOWN: u32 = 0x100;
const PARENT_IS_REMOTE: u32 = 0x200;

#[derive(Clone, PartialEq, Message)]
pub(super) struct Request {
    #[prost(message, repeated, tag = "1")]
    resource_spans: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scope_spans: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct ScopeSpans {
    #[prost(message, optional, tag = "1")]
    scope: Option<Scope>,
    #[prost(message, repeated, tag = "2")]
    spans: Vec<Span>,
}

#[derive(Clone, PartialEq, Message)]
struct Scope {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    version: String,
}

#[derive(Clone, PartialEq, Message)]
struct Span {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
    #[prost(string, tag = "3")]
    trace_state: String,
    #[prost(bytes = "vec", tag = "4")]
    parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(int32, tag = "6")]
    kind: i32,
    #[prost(fixed64, tag = "7")]
    start_time_unix_nano: u64,
    #[prost(fixed64, tag = "8")]
    end_time_unix_nano: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<KeyValue>,
    #[prost(message, repeated, tag = "11")]
    events: Vec<SpanEvent>,
    #[prost(message, optional, tag = "15")]
    status: Option<SpanStatus>,
    #[prost(fixed32, tag = "16")]
    flags: u32,
}

#[derive(Clone, PartialEq, Message)]
struct SpanEvent {
    #[prost(fixed64, tag = "1")]
    time_unix_nano: u64,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(message, repeated, tag = "3")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct SpanStatus {
    #[prost(string, tag = "2")]
    message: String,
    /// 0: not said, 2: failed.
    #[prost(int32, tag = "3")]
    code: i32,
}

#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct AnyValue {
    #[prost(oneof = "AnyValueKind", tags = "1, 2, 3")]
    value: Option<AnyValueKind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum AnyValueKind {
    #[prost(string, tag = "1")]
    Text(String),
    #[prost(bool, tag = "2")]
    Bool(bool),
    #[prost(int64, tag = "3")]
    Int(i64),
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Response {
    #[prost(message, optional, tag = "1")]
    partial_success: Option<PartialSuccess>,
}

#[derive(Clone, PartialEq, Message)]
struct PartialSuccess {
    #[prost(int64, tag = "1")]
    rejected_spans: i64,
    #[prost(string, tag = "2")]
    error_message: String,
}

impl Response {
    /// Spans that were not taken, and what the collector has to say about it.
    pub fn rejected(self) -> Option<(u64, String)> {
        let PartialSuccess { rejected_spans, error_message } = self.partial_success?;
        let rejected = u64::try_from(rejected_spans).unwrap_or(0);
        (rejected > 0 || !error_message.is_empty()).then_some((rejected, error_message))
    }
}

/// A batch of spans in one request: those of calls and those within them each by themselves, as etcd sends them.
pub(super) fn request(settings: &Settings, batch: Vec<Finished>) -> Request {
    let mut attributes = Vec::new();
    // In the order of their names.
    if !settings.instance_id.is_empty() {
        attributes.push(text("service.instance.id", settings.instance_id.clone()));
    }
    attributes.push(text("service.name", settings.service_name.clone()));
    let (of_calls, within): (Vec<_>, Vec<_>) = batch.into_iter().partition(|span| span.kind == Kind::Server);
    let scope_spans = [(SCOPE_WITHIN, within), (SCOPE_OF_CALLS, of_calls)]
        .into_iter()
        .filter(|(_, spans)| !spans.is_empty())
        .map(|((name, version), spans)| ScopeSpans {
            scope: Some(Scope { name: name.into(), version: version.into() }),
            spans: spans.into_iter().map(spell).collect(),
        })
        .collect();
    Request { resource_spans: vec![ResourceSpans { resource: Some(Resource { attributes }), scope_spans }] }
}

fn spell(span: Finished) -> Span {
    let remote = if span.parent_is_remote { PARENT_IS_REMOTE } else { 0 };
    let status = match span.failure {
        Some(message) => SpanStatus { message, code: 2 },
        None => SpanStatus::default(),
    };
    Span {
        trace_id: span.context.trace_id.into(),
        span_id: span.context.span_id.into(),
        trace_state: span.context.state.as_ref().into(),
        parent_span_id: if span.parent == [0; 8] { Vec::new() } else { span.parent.into() },
        name: span.name.into_owned(),
        kind: span.kind as i32,
        start_time_unix_nano: span.started_ns,
        end_time_unix_nano: span.ended_ns,
        attributes: pairs(span.attributes),
        events: span.events.into_iter().map(spell_event).collect(),
        status: Some(status),
        flags: u32::from(span.context.flags) | PARENT_IS_KNOWN | remote,
    }
}

fn spell_event(event: Event) -> SpanEvent {
    SpanEvent { time_unix_nano: event.at_ns, name: event.name.into(), attributes: pairs(event.attributes) }
}

fn pairs(attributes: Attributes) -> Vec<KeyValue> {
    let pair = |(key, value): (&str, Value)| {
        let value = match value {
            Value::Text(text) => AnyValueKind::Text(text),
            Value::Int(number) => AnyValueKind::Int(number),
            Value::Bool(flag) => AnyValueKind::Bool(flag),
        };
        KeyValue { key: key.into(), value: Some(AnyValue { value: Some(value) }) }
    };
    attributes.0.into_iter().map(pair).collect()
}

fn text(key: &str, value: String) -> KeyValue {
    KeyValue { key: key.into(), value: Some(AnyValue { value: Some(AnyValueKind::Text(value)) }) }
}
