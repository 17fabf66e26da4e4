//! Distributed tracing as etcd does it: a span for each sampled call, one within it for what the call asks of the store, both
//! sent to a collector by OTLP. A shard makes spans and leaves them in a bounded queue (`export`), from which a thread of its
//! own sends them; nothing here waits for anything, and without tracing there is no tracer to be asked. (OpenTelemetry
//! specification: trace/api.md, trace/sdk.md; etcd: embed/config_tracing.go.)

mod context;
mod export;
mod otlp;

use std::{
    borrow::Cow,
    cell::{Cell, RefCell},
    fmt,
    fs::File,
    io::{self, Read as _},
    rc::Rc,
    sync::Arc,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use self::context::Context;
pub use self::export::Exporter;
use crate::limits;

/// `--distributed-tracing-*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `host:port` of the collector, or `unix:` and the path of its socket.
    pub address: String,
    pub service_name: String,
    /// Empty: none is told.
    pub instance_id: String,
    /// Of a million traces that begin here, so many are sampled. What begins elsewhere brings its decision with it.
    pub sampled_per_million: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Internal = 1,
    Server = 2,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    Text(String),
    Int(i64),
    Bool(bool),
}

/// What a span says beside its name.
#[derive(Debug, Default)]
pub struct Attributes(Vec<(&'static str, Value)>);

impl Attributes {
    /// A text; bytes that are none are replaced, and what is beyond the bound is left out. (OTLP has texts in UTF-8 only; a
    /// key of a client's may be anything.)
    pub fn text(&mut self, name: &'static str, value: &[u8]) {
        let bytes = &value[..value.len().min(limits::TRACE_TEXT_BYTES_MAX)];
        self.0.push((name, Value::Text(String::from_utf8_lossy(bytes).into_owned())));
    }

    pub fn int(&mut self, name: &'static str, value: i64) {
        self.0.push((name, Value::Int(value)));
    }

    pub fn flag(&mut self, name: &'static str, value: bool) {
        self.0.push((name, Value::Bool(value)));
    }
}

/// Something that happened at a moment of a span.
#[derive(Debug)]
struct Event {
    name: &'static str,
    at_ns: u64,
    attributes: Attributes,
}

/// A span that is over.
#[derive(Debug)]
struct Finished {
    context: Context,
    parent: [u8; 8],
    parent_is_remote: bool,
    name: Cow<'static, str>,
    kind: Kind,
    started_ns: u64,
    ended_ns: u64,
    attributes: Attributes,
    events: Vec<Event>,
    /// None: not said. Else the call failed, with this text.
    failure: Option<String>,
}

/// Makes the spans of one shard.
pub struct Tracer {
    exporter: Arc<Exporter>,
    sampling: Sampling,
    ids: Ids,
}

impl fmt::Debug for Tracer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tracer").field("sampling", &self.sampling).finish_non_exhaustive()
    }
}

/// Which traces that begin here are sampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sampling {
    None,
    /// Those whose id's last 63 bits are less than this. (OpenTelemetry: TraceIdRatioBased.)
    Below(u64),
    All,
}

impl Sampling {
    fn of(per_million: u32) -> Self {
        match per_million {
            0 => Sampling::None,
            1_000_000.. => Sampling::All,
            // In floating point, so that the same ids are sampled as by others with the same rate.
            _ => Sampling::Below((f64::from(per_million) / 1e6 * (1u64 << 63) as f64) as u64),
        }
    }

    fn takes(self, trace_id: [u8; 16]) -> bool {
        match self {
            Sampling::None => false,
            Sampling::Below(bound) => {
                let low: [u8; 8] = trace_id[8..].try_into().expect("half of an id");
                u64::from_be_bytes(low) >> 1 < bound
            }
            Sampling::All => true,
        }
    }
}

impl Tracer {
    /// # Errors
    /// If the system gives no random numbers.
    pub fn new(exporter: Arc<Exporter>) -> io::Result<Self> {
        let sampling = Sampling::of(exporter.settings().sampled_per_million);
        Ok(Tracer { sampling, ids: Ids::new()?, exporter })
    }

    /// The span of a call that has come, if it is sampled: by whoever has made it, or else by this tracer. `traceparent`
    /// and `tracestate` are the call's metadata of these names.
    pub fn of_call(
        self: &Rc<Self>,
        name: impl FnOnce() -> String,
        traceparent: Option<&[u8]>,
        tracestate: Option<&[u8]>,
    ) -> Option<Span> {
        let parent = traceparent.and_then(|parent| Context::parse(parent, tracestate));
        let (context, parent) = match parent {
            Some(parent) if parent.is_sampled() => {
                let id = parent.span_id;
                (Context { span_id: self.ids.span(), ..parent }, id)
            }
            Some(_) => return None,
            None if self.sampling == Sampling::None => return None,
            None => {
                let trace_id = self.ids.trace();
                if !self.sampling.takes(trace_id) {
                    return None;
                }
                let context = Context { trace_id, span_id: self.ids.span(), flags: context::SAMPLED, state: "".into() };
                (context, [0; 8])
            }
        };
        let parent_is_remote = parent != [0; 8];
        Some(Span::begin(self, context, parent, parent_is_remote, name().into(), Kind::Server))
    }
}

/// A span that is open. It ends when it is told to, or with its last clone.
#[derive(Clone)]
pub struct Span(Rc<Active>);

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Span").field(&self.0.context).finish()
    }
}

struct Active {
    tracer: Rc<Tracer>,
    context: Context,
    parent: [u8; 8],
    parent_is_remote: bool,
    kind: Kind,
    started: SystemTime,
    began: Instant,
    /// None once it has ended.
    said: RefCell<Option<Said>>,
}

/// What is said of a span while it is open.
#[derive(Default)]
struct Said {
    name: Cow<'static, str>,
    attributes: Attributes,
    events: Vec<Event>,
    failure: Option<String>,
}

impl Span {
    fn begin(
        tracer: &Rc<Tracer>,
        context: Context,
        parent: [u8; 8],
        parent_is_remote: bool,
        name: Cow<'static, str>,
        kind: Kind,
    ) -> Self {
        Span(Rc::new(Active {
            tracer: tracer.clone(),
            context,
            parent,
            parent_is_remote,
            kind,
            started: SystemTime::now(),
            began: Instant::now(),
            said: RefCell::new(Some(Said { name, ..Said::default() })),
        }))
    }

    /// A span within this one.
    #[must_use]
    pub fn child(&self, name: &'static str, describe: impl FnOnce(&mut Attributes)) -> Span {
        let Active { tracer, context, .. } = &*self.0;
        let inner = Context { span_id: tracer.ids.span(), ..context.clone() };
        let span = Span::begin(tracer, inner, context.span_id, false, name.into(), Kind::Internal);
        span.describe(describe);
        span
    }

    pub fn describe(&self, describe: impl FnOnce(&mut Attributes)) {
        if let Some(said) = &mut *self.0.said.borrow_mut() {
            describe(&mut said.attributes);
        }
    }

    /// Something has happened now.
    pub fn event(&self, name: &'static str) {
        self.event_with(name, Attributes::default());
    }

    /// An error that does not end the span, as OpenTelemetry has Go's errors.
    pub fn error(&self, message: &str) {
        let mut attributes = Attributes::default();
        attributes.text("exception.type", b"*errors.errorString");
        attributes.text("exception.message", message.as_bytes());
        self.event_with("exception", attributes);
    }

    fn event_with(&self, name: &'static str, attributes: Attributes) {
        let at_ns = self.0.now_ns();
        if let Some(said) = &mut *self.0.said.borrow_mut()
            && said.events.len() < limits::TRACE_EVENTS_MAX
        {
            said.events.push(Event { name, at_ns, attributes });
        }
    }

    /// What the span is about has failed.
    pub fn fail(&self, message: &str) {
        if let Some(said) = &mut *self.0.said.borrow_mut() {
            let cut = &message.as_bytes()[..message.len().min(limits::TRACE_TEXT_BYTES_MAX)];
            said.failure = Some(String::from_utf8_lossy(cut).into_owned());
        }
    }

    /// It is over, whoever still holds it.
    pub fn end(&self) {
        self.0.end();
    }
}

impl Active {
    /// By the steady clock, so that no span ends before it begins.
    fn now_ns(&self) -> u64 {
        unix_ns(self.started) + self.began.elapsed().as_nanos() as u64
    }

    fn end(&self) {
        let Some(Said { name, attributes, events, failure }) = self.said.take() else { return };
        self.tracer.exporter.offer(Finished {
            context: self.context.clone(),
            parent: self.parent,
            parent_is_remote: self.parent_is_remote,
            name,
            kind: self.kind,
            started_ns: unix_ns(self.started),
            ended_ns: self.now_ns(),
            attributes,
            events,
            failure,
        });
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.end();
    }
}

fn unix_ns(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

/// Ids that no other tracer gives: xoroshiro128++ (Blackman and Vigna, 2019), from a random start.
struct Ids(Cell<[u64; 2]>);

impl Ids {
    fn new() -> io::Result<Self> {
        let mut bytes = [0; 16];
        File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        let seed = u128::from_le_bytes(bytes);
        // All zeros is the one state that gives nothing else.
        Ok(Ids(Cell::new([seed as u64 | 1, (seed >> 64) as u64])))
    }

    fn next(&self) -> u64 {
        let [a, b] = self.0.get();
        let result = a.wrapping_add(b).rotate_left(17).wrapping_add(a);
        let mixed = a ^ b;
        self.0.set([a.rotate_left(49) ^ mixed ^ (mixed << 21), mixed.rotate_left(28)]);
        result
    }

    /// Zero stands for none.
    fn span(&self) -> [u8; 8] {
        loop {
            let id = self.next();
            if id != 0 {
                return id.to_be_bytes();
            }
        }
    }

    fn trace(&self) -> [u8; 16] {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.span());
        id[8..].copy_from_slice(&self.next().to_be_bytes());
        id
    }
}

#[cfg(test)]
mod tests;
