//! The way to the collector: a bounded queue that shards leave spans in, and the thread that sends them in batches by OTLP
//! over gRPC, in the clear. A batch that cannot be delivered in time is lost, and so is what finds the queue full; both are
//! counted, and the first is logged. (opentelemetry-go: sdk/trace/batch_span_processor.go, exporters/otlptracegrpc; the bounds
//! are theirs.)

use std::{
    collections::VecDeque,
    fmt, io,
    path::Path,
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use futures_util::future::{Either, select};
use h2::client::SendRequest;
use http::{HeaderMap, Method, Request, header};
use prost::Message;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    sync::Notify,
    time,
};

use super::{Finished, Settings, otlp};
use crate::{limits, log, wire::frame::PREFIX_BYTES};

const BATCH_DELAY: Duration = Duration::from_millis(limits::TRACE_BATCH_DELAY_MS);
const RETRY_DELAY: Duration = Duration::from_millis(limits::TRACE_RETRY_DELAY_MS);
const EXPORT_TIMEOUT: Duration = Duration::from_millis(limits::TRACE_EXPORT_TIMEOUT_MS);

/// What all shards leave their spans with.
pub struct Exporter {
    settings: Settings,
    queue: Mutex<VecDeque<Finished>>,
    /// A batch is full, or it is time to stop.
    full: Notify,
    stopping: Notify,
    stopped: Notify,
    counts: Counts,
}

/// Spans by what became of them.
#[derive(Debug, Default)]
struct Counts {
    exported: AtomicU64,
    failed: AtomicU64,
    dropped: AtomicU64,
}

impl Exporter {
    /// Begins to send what is left here.
    ///
    /// # Errors
    /// If there is no thread to be had.
    pub fn start(settings: Settings) -> io::Result<Arc<Self>> {
        let exporter = Arc::new(Exporter::of(settings));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        let sender = Sender { exporter: exporter.clone(), connection: None, stopping: false };
        thread::Builder::new().name("traces".into()).spawn(move || runtime.block_on(sender.run()))?;
        Ok(exporter)
    }

    fn of(settings: Settings) -> Self {
        Exporter {
            settings,
            queue: Mutex::default(),
            full: Notify::new(),
            stopping: Notify::new(),
            stopped: Notify::new(),
            counts: Counts::default(),
        }
    }

    /// One that nobody sends for.
    #[cfg(test)]
    pub(super) fn idle(settings: Settings) -> Arc<Self> {
        Arc::new(Exporter::of(settings))
    }

    #[cfg(test)]
    pub(super) fn waiting(&self) -> Vec<Finished> {
        self.queue().drain(..).collect()
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Spans by what became of them: taken by the collector, refused or not reached by it, dropped for want of room.
    pub fn counts(&self) -> [(&'static str, u64); 3] {
        let Counts { exported, failed, dropped } = &self.counts;
        [("exported", exported.load(Relaxed)), ("failed", failed.load(Relaxed)), ("dropped", dropped.load(Relaxed))]
    }

    /// Leaves a span to be sent; where there is no room it is lost. Holds a lock for as long as it takes to move one.
    pub(super) fn offer(&self, span: Finished) {
        let waiting = {
            let mut queue = self.queue();
            if queue.len() < limits::TRACE_SPANS_QUEUED {
                queue.push_back(span);
                queue.len()
            } else {
                self.counts.dropped.fetch_add(1, Relaxed);
                return;
            }
        };
        // Rung once for each batch: what is less waits for its time.
        if waiting % limits::TRACE_BATCH_SPANS == 0 {
            self.full.notify_one();
        }
    }

    /// Sends what waits, and no more after it.
    pub async fn stop(&self) {
        self.stopping.notify_one();
        self.stopped.notified().await;
    }

    fn queue(&self) -> std::sync::MutexGuard<'_, VecDeque<Finished>> {
        self.queue.lock().expect("nothing panics while it holds this")
    }

    fn take_batch(&self) -> Vec<Finished> {
        let mut queue = self.queue();
        let count = queue.len().min(limits::TRACE_BATCH_SPANS);
        queue.drain(..count).collect()
    }
}

/// Why a batch was not delivered.
#[derive(Debug)]
struct Failure {
    cause: String,
    /// It may be delivered a little later.
    may_pass: bool,
}

impl Failure {
    fn unreached(cause: impl fmt::Display) -> Self {
        Failure { cause: cause.to_string(), may_pass: true }
    }
}

struct Sender {
    exporter: Arc<Exporter>,
    connection: Option<SendRequest<Bytes>>,
    /// It is time to stop: what waits is sent, and nothing is waited for.
    stopping: bool,
}

impl Sender {
    async fn run(mut self) {
        let exporter = self.exporter.clone();
        loop {
            if exporter.queue().len() < limits::TRACE_BATCH_SPANS {
                self.rest(BATCH_DELAY, Some(&exporter.full)).await;
            }
            let batch = exporter.take_batch();
            if !batch.is_empty() {
                self.deliver(batch).await;
            } else if self.stopping {
                exporter.stopped.notify_one();
                return;
            }
        }
    }

    /// Waits for the time to pass, for a bell if there is one, or until it is time to stop.
    async fn rest(&mut self, delay: Duration, bell: Option<&Notify>) {
        if self.stopping {
            return;
        }
        let bell = pin!(async {
            match bell {
                Some(bell) => bell.notified().await,
                None => std::future::pending().await,
            }
        });
        let exporter = self.exporter.clone();
        let stopping = pin!(exporter.stopping.notified());
        let rung = time::timeout(delay, select(stopping, bell)).await;
        self.stopping = matches!(rung, Ok(Either::Left(_)));
    }

    async fn deliver(&mut self, batch: Vec<Finished>) {
        let count = batch.len() as u64;
        let message = framed(&otlp::request(&self.exporter.settings, batch));
        let outcome = time::timeout(EXPORT_TIMEOUT, self.try_twice(&message)).await;
        let counts = &self.exporter.counts;
        match outcome.unwrap_or_else(|_| Err(Failure::unreached("the collector does not answer"))) {
            Ok(response) => {
                let (rejected, reason) = response.rejected().unwrap_or_default();
                let rejected = rejected.min(count);
                counts.exported.fetch_add(count - rejected, Relaxed);
                counts.failed.fetch_add(rejected, Relaxed);
                if rejected > 0 || !reason.is_empty() {
                    log!(Warn, "the collector has not taken all spans", "rejected" = rejected, "reason" = reason);
                }
            }
            Err(Failure { cause, .. }) => {
                counts.failed.fetch_add(count, Relaxed);
                let address = self.exporter.settings.address.as_str();
                log!(Warn, "cannot export spans; they are lost", "address" = address, "spans" = count, "error" = cause);
            }
        }
    }

    async fn try_twice(&mut self, message: &Bytes) -> Result<otlp::Response, Failure> {
        match self.try_once(message).await {
            Err(failure) if failure.may_pass && !self.stopping => {
                self.rest(RETRY_DELAY, None).await;
                self.try_once(message).await
            }
            outcome => outcome,
        }
    }

    /// # Errors
    /// The connection is given up with the call.
    async fn try_once(&mut self, message: &Bytes) -> Result<otlp::Response, Failure> {
        // A collector that was restarted has closed the connection; that is seen now and is nobody's failure.
        let kept = match self.connection.take() {
            Some(connection) => connection.ready().await.ok(),
            None => None,
        };
        let connection = match kept {
            Some(connection) => connection,
            None => connect(&self.exporter.settings.address).await?,
        };
        let (response, connection) = call(connection, &self.exporter.settings.address, message.clone()).await?;
        self.connection = Some(connection);
        Ok(response)
    }
}

/// A message with its prefix.
fn framed(message: &impl Message) -> Bytes {
    let len = message.encoded_len();
    let mut out = BytesMut::with_capacity(PREFIX_BYTES + len);
    out.extend_from_slice(&[0]);
    out.extend_from_slice(&u32::try_from(len).expect("a batch is bounded").to_be_bytes());
    message.encode(&mut out).expect("a buffer grows");
    out.freeze()
}

async fn connect(address: &str) -> Result<SendRequest<Bytes>, Failure> {
    match address.strip_prefix("unix:") {
        Some(path) => {
            let path = path.strip_prefix("//").unwrap_or(path);
            speak(UnixStream::connect(Path::new(path)).await.map_err(Failure::unreached)?).await
        }
        None => {
            let address = address.strip_prefix("dns:").map_or(address, |rest| rest.trim_start_matches('/'));
            // Where no port is said gRPC takes this one.
            let with_port = match address.rsplit_once(':') {
                Some((host, _)) if !host.contains(':') || host.ends_with(']') => address.to_owned(),
                _ => format!("{address}:443"),
            };
            let socket = TcpStream::connect(with_port.as_str()).await.map_err(Failure::unreached)?;
            socket.set_nodelay(true).map_err(Failure::unreached)?;
            speak(socket).await
        }
    }
}

async fn speak(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Result<SendRequest<Bytes>, Failure> {
    let (requests, connection) = h2::client::handshake(io).await.map_err(Failure::unreached)?;
    // How it ends is told to the calls on it.
    tokio::spawn(async move { drop(connection.await) });
    requests.ready().await.map_err(Failure::unreached)
}

/// Makes the one call there is.
async fn call(
    mut connection: SendRequest<Bytes>,
    address: &str,
    message: Bytes,
) -> Result<(otlp::Response, SendRequest<Bytes>), Failure> {
    let authority = if address.starts_with("unix:") { "localhost" } else { address };
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("http://{authority}{}", otlp::EXPORT))
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .header(header::USER_AGENT, concat!("urd/", env!("CARGO_PKG_VERSION")))
        .body(())
        .map_err(|cause| Failure { cause: cause.to_string(), may_pass: false })?;
    let (response, mut body) = connection.send_request(request, false).map_err(Failure::unreached)?;
    body.send_data(message, true).map_err(Failure::unreached)?;
    let (head, mut answer) = response.await.map_err(Failure::unreached)?.into_parts();
    if head.status != http::StatusCode::OK {
        let cause = format!("the collector answers with HTTP status {}", head.status.as_u16());
        return Err(Failure { cause, may_pass: matches!(head.status.as_u16(), 429 | 502 | 503 | 504) });
    }
    let mut bytes = BytesMut::new();
    while let Some(piece) = answer.data().await {
        let piece = piece.map_err(Failure::unreached)?;
        // Nothing that can be known would be left out: it is a number and a text.
        if bytes.len() + piece.len() <= limits::TRACE_RESPONSE_BYTES_MAX {
            bytes.extend_from_slice(&piece);
        }
        answer.flow_control().release_capacity(piece.len()).map_err(Failure::unreached)?;
    }
    let trailers = answer.trailers().await.map_err(Failure::unreached)?;
    verdict(trailers.as_ref().unwrap_or(&head.headers))?;
    let mut bytes = bytes.freeze();
    let message =
        if bytes.len() >= PREFIX_BYTES && bytes[0] == 0 { bytes.split_off(PREFIX_BYTES) } else { Bytes::new() };
    // What cannot be read says nothing of spans that were not taken.
    let response = otlp::Response::decode(message.chunk()).unwrap_or_default();
    Ok((response, connection))
}

/// The status of a call, in its trailers or where it has no body in its head.
fn verdict(headers: &HeaderMap) -> Result<(), Failure> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let code = text("grpc-status").parse().unwrap_or(2_u8);
    // Canceled, deadline exceeded, aborted, out of range, unavailable, data loss. (OTLP specification, "Failures".)
    let may_pass = matches!(code, 1 | 4 | 10 | 11 | 14 | 15);
    match code {
        0 => Ok(()),
        _ => Err(Failure { cause: format!("the collector refuses: code {code}: {}", text("grpc-message")), may_pass }),
    }
}
