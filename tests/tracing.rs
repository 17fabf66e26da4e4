//! Distributed tracing, seen from the collector: which calls it is told of, what it is told of them, and that the server
//! does not mind whether it is there.

mod server;

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};
use prost::Message;
use tokio::{
    net::TcpListener,
    sync::{Mutex, mpsc},
};
use urd_client::{Client, etcdserverpb::WatchCreateRequest, v3lockpb::LockRequest};

use self::server::{Server, free_address, soon, users};

/// The request that a collector takes, by the numbers of opentelemetry-proto.
mod otlp {
    use prost::Message;

    #[derive(Clone, PartialEq, Message)]
    pub struct Request {
        #[prost(message, repeated, tag = "1")]
        pub resources: Vec<Resource>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub struct Resource {
        #[prost(message, optional, tag = "1")]
        pub resource: Option<Attributes>,
        #[prost(message, repeated, tag = "2")]
        pub scopes: Vec<Scope>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub struct Attributes {
        #[prost(message, repeated, tag = "1")]
        pub attributes: Vec<Pair>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub struct Scope {
        #[prost(message, optional, tag = "1")]
        pub scope: Option<Name>,
        #[prost(message, repeated, tag = "2")]
        pub spans: Vec<Span>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub struct Name {
        #[prost(string, tag = "1")]
        pub name: String,
    }

    #[derive(Clone, PartialEq, Message)]
    pub struct Span {
        #[prost(bytes = "vec", tag = "1")]
        pub trace_id: Vec<u8>,
        #[prost(bytes = "vec", tag = "2")]
        pub span_id: Vec<u8>,
        #[prost(string, tag = "3")]
        pub state: String,
        #[prost(bytes = "vec", tag = "4")]
        pub parent_id: Vec<u8>,
        #[prost(string, tag = "5")]
        pub name: String,
        #[prost(int32, tag = "6")]
        pub kind: i32,
        #[prost(fixed64, tag = "7")]
        pub start: u64,
        #[prost(fixed64, tag = "8")]
        pub end: u64,
        #[prost(message, repeated, tag = "9")]
        pub attributes: Vec<Pair>,
        #[prost(message, repeated, tag = "11")]
        pub events: Vec<Event>,
        #[prost(message, optional, tag = "15")]
        pub status: Option<Status>,
        #[prost(fixed32, tag = "16")]
        pub flags: u32,
    }

    #[derive(Clone, PartialEq, Message)]
    pub struct Event {
        #[prost(string, tag = "2")]
        pub name: String,
    }

    #[derive(Clone, PartialEq, Message)]
    pub struct Status {
        #[prost(string, tag = "2")]
        pub message: String,
        #[prost(int32, tag = "3")]
        pub code: i32,
    }

    #[derive(Clone, PartialEq, Message)]
    pub struct Pair {
        #[prost(string, tag = "1")]
        pub key: String,
        #[prost(message, optional, tag = "2")]
        pub value: Option<Any>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub struct Any {
        #[prost(oneof = "Value", tags = "1, 2, 3")]
        pub value: Option<Value>,
    }

    #[derive(Clone, PartialEq, prost::Oneof)]
    pub enum Value {
        #[prost(string, tag = "1")]
        Text(String),
        #[prost(bool, tag = "2")]
        Bool(bool),
        #[prost(int64, tag = "3")]
        Int(i64),
    }
}

fn pairs(pairs: &[otlp::Pair]) -> BTreeMap<&str, String> {
    let text = |pair: &otlp::Pair| match pair.value.clone().and_then(|any| any.value) {
        Some(otlp::Value::Text(text)) => text,
        Some(otlp::Value::Bool(flag)) => flag.to_string(),
        Some(otlp::Value::Int(number)) => number.to_string(),
        None => String::new(),
    };
    pairs.iter().map(|pair| (pair.key.as_str(), text(pair))).collect()
}

/// A collector within the test. It goes with the value.
struct Collector {
    requests: Mutex<mpsc::UnboundedReceiver<otlp::Request>>,
    serving: tokio::task::JoinHandle<()>,
}

impl Collector {
    async fn at(address: &str) -> Self {
        let listener = TcpListener::bind(address).await.expect("the port is free");
        let (sender, requests) = mpsc::unbounded_channel();
        let sender = Arc::new(sender);
        let serving = tokio::spawn(async move {
            // Its connections end with it.
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (socket, _) = listener.accept().await.expect("a connection");
                let sender = sender.clone();
                connections.spawn(async move {
                    let mut connection = h2::server::handshake(socket).await.expect("HTTP/2");
                    while let Some(call) = connection.accept().await {
                        let Ok((request, respond)) = call else { return };
                        tokio::spawn(take(request, respond, sender.clone()));
                    }
                });
            }
        });
        Collector { requests: Mutex::new(requests), serving }
    }

    /// Waits until it has been told of so many spans.
    async fn spans(&self, count: usize) -> Vec<otlp::Span> {
        let mut spans = Vec::new();
        while spans.len() < count {
            let request = soon(self.next()).await;
            spans.extend(
                request.resources.into_iter().flat_map(|resource| resource.scopes).flat_map(|scope| scope.spans),
            );
        }
        spans
    }

    async fn next(&self) -> otlp::Request {
        self.requests.lock().await.recv().await.expect("the collector runs")
    }

    async fn end(self) {
        self.serving.abort();
        let _ = self.serving.await;
    }
}

async fn take(
    request: http::Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
    sender: Arc<mpsc::UnboundedSender<otlp::Request>>,
) {
    assert_eq!(request.uri().path(), "/opentelemetry.proto.collector.trace.v1.TraceService/Export");
    assert_eq!(request.headers()["content-type"], "application/grpc");
    let mut body = request.into_body();
    let mut bytes = Vec::new();
    while let Some(piece) = body.data().await {
        let piece = piece.expect("a whole request");
        bytes.extend_from_slice(&piece);
        body.flow_control().release_capacity(piece.len()).expect("a window");
    }
    assert_eq!((bytes[0], bytes[1..5].to_vec()), (0, (bytes.len() as u32 - 5).to_be_bytes().to_vec()));
    sender.send(otlp::Request::decode(&bytes[5..]).expect("a request of spans")).expect("the test listens");
    let head = Response::builder().header("content-type", "application/grpc").body(()).expect("a head");
    let mut answer = respond.send_response(head, false).expect("the exporter listens");
    answer.send_data(Bytes::from_static(&[0; 5]), false).expect("the exporter listens");
    let trailers = HeaderMap::from_iter([("grpc-status".parse().expect("a name"), HeaderValue::from_static("0"))]);
    answer.send_trailers(trailers).expect("the exporter listens");
}

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

fn traced(client: &Client) -> Client {
    client.with_metadata("traceparent", &format!("00-{TRACE}-{PARENT}-01")).with_metadata("tracestate", "a=b")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn server_with(address: &str, more: &[&str]) -> Server {
    let address = format!("--distributed-tracing-address={address}");
    Server::start_with(&[&["--enable-distributed-tracing", &address], more].concat()).await
}

fn named<'a>(spans: &'a [otlp::Span], name: &str) -> &'a otlp::Span {
    spans.iter().find(|span| span.name == name).unwrap_or_else(|| panic!("no span {name} in {spans:?}"))
}

#[tokio::test]
async fn a_sampled_call_is_told_with_what_it_did() {
    let address = free_address();
    let collector = Collector::at(&address).await;
    let server = server_with(&address, &["--distributed-tracing-instance-id=i1"]).await;
    let client = server.client().await;
    traced(&client).put("k", "v").await.unwrap();
    // Not sampled by its caller, and none is sampled here.
    client.put("k", "v").await.unwrap();
    let off = format!("00-{TRACE}-{PARENT}-00");
    client.with_metadata("traceparent", &off).put("k", "v").await.unwrap();

    let request = soon(collector.next()).await;
    let [resource] = &request.resources[..] else { panic!("{request:?}") };
    let told = pairs(&resource.resource.as_ref().unwrap().attributes);
    assert_eq!(told, BTreeMap::from([("service.instance.id", "i1".into()), ("service.name", "etcd".into())]));
    let scopes: Vec<_> = resource.scopes.iter().map(|scope| scope.scope.clone().unwrap().name).collect();
    let otelgrpc = "go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc";
    assert_eq!(scopes, ["go.etcd.io/etcd", otelgrpc]);
    let spans: Vec<_> = resource.scopes.iter().flat_map(|scope| scope.spans.clone()).collect();
    assert_eq!(spans.len(), 2, "{spans:?}");

    let call = named(&spans, "etcdserverpb.KV/Put");
    assert_eq!((hex(&call.trace_id), hex(&call.parent_id)), (TRACE.into(), PARENT.into()));
    assert_eq!((call.kind, call.flags, call.state.as_str()), (2, 0x301, "a=b"));
    let (host, port) = server.address.rsplit_once(':').unwrap();
    let wanted = [
        ("rpc.method", "etcdserverpb.KV/Put"),
        ("rpc.response.status_code", "OK"),
        ("rpc.system.name", "grpc"),
        ("server.address", host),
        ("server.port", port),
    ];
    assert_eq!(pairs(&call.attributes), wanted.map(|(key, value)| (key, value.to_owned())).into());
    assert_eq!(call.status, Some(otlp::Status::default()));

    let within = named(&spans, "put");
    assert_eq!((hex(&within.trace_id), &within.parent_id), (TRACE.into(), &call.span_id));
    assert_eq!((within.kind, within.flags, within.state.as_str()), (1, 0x101, "a=b"));
    assert_eq!(pairs(&within.attributes), BTreeMap::from([("key", "k".into())]));
    let events: Vec<_> = within.events.iter().map(|event| event.name.as_str()).collect();
    assert_eq!(events, ["Send raft proposal", "Receive raft result"]);
    assert!(call.start <= within.start && within.start <= within.end && within.end <= call.end);
}

#[tokio::test]
async fn what_a_call_fails_with_is_told() {
    let address = free_address();
    let collector = Collector::at(&address).await;
    let server = server_with(&address, &[]).await;
    let client = traced(&server.client().await);
    client.put("", "v").await.unwrap_err();
    client.call(&LockRequest { name: "l".into(), lease: 42 }).await.unwrap_err();
    let spans = collector.spans(3).await;
    let refused = named(&spans, "etcdserverpb.KV/Put");
    assert_eq!(pairs(&refused.attributes)["rpc.response.status_code"], "INVALID_ARGUMENT");
    // The caller's own fault is no failure of the server's.
    assert_eq!(refused.status, Some(otlp::Status::default()));
    let failed = named(&spans, "v3lockpb.Lock/Lock");
    assert_eq!(pairs(&failed.attributes)["rpc.response.status_code"], "UNKNOWN");
    let message = "etcdserver: requested lease not found".to_owned();
    assert_eq!(failed.status, Some(otlp::Status { message, code: 2 }));
    // What it has done of the store is within it.
    assert_eq!(named(&spans, "txn").parent_id, failed.span_id);
}

#[tokio::test]
async fn a_watch_is_told_when_it_ends_and_its_stream_after_it() {
    let address = free_address();
    let collector = Collector::at(&address).await;
    let server = server_with(&address, &[]).await;
    let mut watcher = traced(&server.client().await).watcher().await.unwrap();
    let create = |key: &'static str| WatchCreateRequest { key: key.into(), prev_kv: true, ..Default::default() };
    watcher.create(create("a")).unwrap();
    watcher.create(create("b")).unwrap();
    let first = watcher.next().await.unwrap();
    watcher.next().await.unwrap();
    watcher.cancel(first.watch_id).unwrap();
    let ended = collector.spans(1).await;
    let wanted = [
        ("fragment", "false"),
        ("key", "a"),
        ("prev_kv", "true"),
        ("progress_notify", "false"),
        ("range_end", ""),
        ("start_rev", "0"),
    ];
    assert_eq!(ended.len(), 1, "{ended:?}");
    assert_eq!(pairs(&named(&ended, "watch").attributes), wanted.map(|(key, value)| (key, value.to_owned())).into());
    drop(watcher);
    let rest = collector.spans(2).await;
    let stream = named(&rest, "etcdserverpb.Watch/Watch");
    assert_eq!(pairs(&stream.attributes)["rpc.response.status_code"], "CANCELLED");
    assert_eq!(pairs(&named(&rest, "watch").attributes)["key"], "b");
    assert_eq!((&ended[0].parent_id, &named(&rest, "watch").parent_id), (&stream.span_id, &stream.span_id));
}

#[tokio::test]
async fn every_call_is_told_at_the_full_rate_and_the_rest_at_the_end() {
    let address = free_address();
    let collector = Collector::at(&address).await;
    let mut server = server_with(&address, &["--distributed-tracing-sampling-rate=1000000"]).await;
    server.client().await.put("k", "v").await.unwrap();
    // In a thread of its own: the collector is in this one.
    let ended = tokio::task::spawn_blocking(move || server.terminate()).await.unwrap();
    assert!(ended.success());
    let mut spans = Vec::new();
    while !spans.iter().any(|span: &otlp::Span| span.name == "put") {
        spans.extend(collector.spans(1).await);
    }
    let call = named(&spans, "etcdserverpb.KV/Put");
    assert_eq!((call.parent_id.len(), call.flags), (0, 0x101));
    assert_eq!(named(&spans, "put").trace_id, call.trace_id);
}

#[tokio::test]
async fn a_collector_that_goes_and_comes_back_is_told_again() {
    let address = free_address();
    let collector = Collector::at(&address).await;
    let server = server_with(&address, &[]).await;
    let client = traced(&server.client().await);
    client.put("a", "").await.unwrap();
    collector.spans(2).await;
    collector.end().await;
    client.put("b", "").await.unwrap();
    // What was not delivered is lost, and counted.
    soon(async {
        while users::metric(&server, r#"urd_trace_spans_total{outcome="failed"}"#).await < 2.0 {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    })
    .await;
    server.says("cannot export spans; they are lost").await;
    let collector = Collector::at(&address).await;
    client.put("c", "").await.unwrap();
    let spans = collector.spans(2).await;
    assert_eq!(pairs(&named(&spans, "put").attributes)["key"], "c");
}
