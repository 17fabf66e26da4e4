//! Calls to a discovery service: gRPC over one connection at a time, to whichever endpoint answers first. It waits for a service
//! that cannot be reached, as long as the caller does. (etcd: client/v3; grpc-go: round_robin and its keepalive.)

use std::{
    cell::{Cell, RefCell},
    fmt,
    future::{Future, poll_fn},
    net::{IpAddr, SocketAddr},
    path::Path,
    rc::Rc,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures_util::future::select_ok;
use h2::{
    Ping, PingPong, RecvStream, SendStream,
    client::{ResponseFuture, SendRequest},
};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{
    config::{discovery::Service, tls::Files, url},
    error::{self, Code, Status, in_go_words},
    limits,
    net::tls::Caller,
    proto::etcdserverpb::{
        AuthenticateRequest, AuthenticateResponse, PutRequest, PutResponse, RangeRequest, RangeResponse,
        WatchCreateRequest, WatchRequest, WatchResponse, watch_request::RequestUnion,
    },
    runtime::{
        self, names,
        socket::{Address, Socket},
    },
    version,
    wire::frame::{Frame, PREFIX_BYTES},
};

const RANGE: &str = "/etcdserverpb.KV/Range";
const PUT: &str = "/etcdserverpb.KV/Put";
const WATCH: &str = "/etcdserverpb.Watch/Watch";
const AUTHENTICATE: &str = "/etcdserverpb.Auth/Authenticate";

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// The service says no.
    Refused(Status),
    /// The connection is gone, and perhaps the call with it.
    Lost(String),
    /// It has taken too long.
    Late,
}

impl Failure {
    fn lost(cause: impl fmt::Display) -> Self {
        Failure::Lost(cause.to_string())
    }

    /// Whether a call that changes nothing may be made again at once.
    fn may_pass(&self) -> bool {
        matches!(self, Failure::Lost(_)) || matches!(self, Failure::Refused(Status { code: Code::Unavailable, .. }))
    }

    /// Whether a token is wanted that is not the one shown.
    fn wants_token(&self) -> bool {
        let Failure::Refused(status) = self else { return false };
        [error::INVALID_AUTH_TOKEN, error::AUTH_OLD_REVISION, error::USER_EMPTY].contains(status)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // Its own errors etcd's client tells without their code.
            Failure::Refused(status) if error::ALL.contains(status) => f.write_str(&status.message),
            Failure::Refused(status) => status.fmt(f),
            Failure::Lost(cause) => write!(f, "rpc error: code = Unavailable desc = {cause}"),
            Failure::Late => f.write_str("context deadline exceeded"),
        }
    }
}

/// Where the service is, and as what it is called.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Endpoint {
    place: Place,
    /// `:authority`.
    authority: String,
    /// What its certificate has to be of.
    host: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Inet { host: String, port: u16 },
    Unix(String),
}

/// (etcd: client/v3/internal/endpoint, Interpret; where no port is said gRPC takes that of HTTPS.)
fn endpoint_of(text: &str) -> Endpoint {
    let text = text.trim();
    for prefix in ["unixs://", "unix://", "unixs:", "unix:"] {
        if let Some(path) = text.strip_prefix(prefix) {
            let host = Path::new(path).file_name().map_or(path, |name| name.to_str().unwrap_or(path));
            return Endpoint {
                place: Place::Unix(path.to_owned()),
                authority: "localhost".to_owned(),
                host: host.split(':').next().unwrap_or(host).to_owned(),
            };
        }
    }
    let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let (host, port) = match url::parse(&format!("http://{authority}")) {
        Ok(url) => {
            let (host, port) = url.host_and_port();
            (host.to_owned(), port.parse().unwrap_or(443))
        }
        Err(_) => (authority.trim_matches(['[', ']']).to_owned(), 443),
    };
    Endpoint { place: Place::Inet { host: host.clone(), port }, authority: authority.to_owned(), host }
}

trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

struct Connection {
    requests: SendRequest<Bytes>,
    pings: RefCell<PingPong>,
    authority: String,
    /// Its endpoint's number.
    endpoint: usize,
}

pub(super) struct Client {
    endpoints: Vec<Endpoint>,
    /// None: in the clear.
    tls: Option<Caller>,
    user: String,
    password: String,
    dial_timeout: Option<Duration>,
    request_timeout: Duration,
    keepalive: Option<(Duration, Duration)>,
    connection: RefCell<Option<Rc<Connection>>>,
    /// The endpoint at which the last call went wrong: another one is taken, if there is one.
    avoided: Cell<Option<usize>>,
    token: RefCell<Option<HeaderValue>>,
}

impl Client {
    /// # Errors
    /// What is wrong with the files of certificates.
    pub fn new(service: &Service) -> Result<Self, String> {
        let endpoints: Vec<Endpoint> = service.endpoints.iter().map(|text| endpoint_of(text)).collect();
        let silence = |silence: Duration| silence.max(Duration::from_millis(limits::DISCOVERY_KEEPALIVE_MS_MIN));
        Ok(Client {
            tls: caller(service)?,
            endpoints,
            user: service.user.clone(),
            password: service.password.clone(),
            dial_timeout: service.dial_timeout,
            request_timeout: service.request_timeout,
            keepalive: service.keepalive_time.map(|time| (silence(time), service.keepalive_timeout)),
            connection: RefCell::default(),
            avoided: Cell::default(),
            token: RefCell::default(),
        })
    }

    /// Gets a token, where there is a user with a password. A service without users wants none.
    pub async fn log_in(&self) -> Result<(), Failure> {
        if !self.has_user() {
            return Ok(());
        }
        within(self.dial_timeout, self.authenticate()).await
    }

    /// One key.
    pub async fn get(&self, key: &str) -> Result<RangeResponse, Failure> {
        let request = RangeRequest { key: key.to_owned().into(), ..RangeRequest::default() };
        self.call(RANGE, &request, true).await
    }

    /// All keys that begin so.
    pub async fn get_prefix(&self, prefix: &str) -> Result<RangeResponse, Failure> {
        let (key, range_end) = range_of(prefix);
        self.call(RANGE, &RangeRequest { key, range_end, ..RangeRequest::default() }, true).await
    }

    pub async fn put(&self, key: &str, value: &str) -> Result<(), Failure> {
        let (key, value) = (key.to_owned().into(), value.to_owned().into());
        let request = PutRequest { key, value, ..PutRequest::default() };
        self.call::<PutResponse>(PUT, &request, false).await.map(drop)
    }

    /// Watches all keys that begin so, from a revision on.
    pub async fn watch(&self, prefix: &str, start_revision: i64) -> Result<Watch<'_>, Failure> {
        let (key, range_end) = range_of(prefix);
        let create = WatchCreateRequest { key, range_end, start_revision, ..WatchCreateRequest::default() };
        let request = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        let connection = self.connected().await;
        let opened = async {
            let (response, mut requests) = self.open(&connection, WATCH).await?;
            requests.send_data(Frame::of(&request).seal(), false).map_err(Failure::lost)?;
            Ok((requests, self.kept_alive(&connection, body_of(response)).await?))
        };
        let opened: Result<(SendStream<Bytes>, RecvStream), Failure> = opened.await;
        let (requests, body) = opened.inspect_err(|_| self.give_up(&connection))?;
        Ok(Watch { client: self, connection, _requests: requests, body, bytes: BytesMut::new() })
    }

    fn has_user(&self) -> bool {
        !self.user.is_empty() && !self.password.is_empty()
    }

    async fn authenticate(&self) -> Result<(), Failure> {
        let request = AuthenticateRequest { name: self.user.clone(), password: self.password.clone() };
        let answer: AuthenticateResponse = match self.try_once(AUTHENTICATE, &request).await {
            Err(Failure::Refused(status)) if status == error::AUTH_NOT_ENABLED => AuthenticateResponse::default(),
            answer => answer?,
        };
        let token = HeaderValue::from_str(&answer.token).map_err(Failure::lost)?;
        *self.token.borrow_mut() = Some(token).filter(|token| !token.is_empty());
        Ok(())
    }

    /// Makes a call within the time that a request may take. `repeats`: it changes nothing, and is made again where it
    /// fails for a reason that passes.
    async fn call<A: Message + Default>(
        &self,
        path: &str,
        request: &impl Message,
        repeats: bool,
    ) -> Result<A, Failure> {
        let answered = async {
            loop {
                match self.try_once(path, request).await {
                    Err(failure) if failure.wants_token() && self.has_user() => self.authenticate().await?,
                    Err(failure) if repeats && failure.may_pass() => {}
                    answer => return answer,
                }
                runtime::sleep(Duration::from_millis(limits::DISCOVERY_ASK_AGAIN_MS)).await;
            }
        };
        within(Some(self.request_timeout), answered).await
    }

    async fn try_once<A: Message + Default>(&self, path: &str, request: &impl Message) -> Result<A, Failure> {
        let connection = self.connected().await;
        let answered = async {
            let (response, mut requests) = self.open(&connection, path).await?;
            requests.send_data(Frame::of(request).seal(), true).map_err(Failure::lost)?;
            let mut body = body_of(response).await?;
            let mut bytes = BytesMut::new();
            let mut answer = None;
            while read(&mut body, &mut bytes).await? {
                answer = answer.or(message(&mut bytes)?);
            }
            answer.ok_or_else(|| Failure::lost("an answer without a message"))
        };
        answered.await.inspect_err(|failure| {
            if failure.may_pass() {
                self.give_up(&connection);
            }
        })
    }

    async fn open(&self, connection: &Connection, path: &str) -> Result<(ResponseFuture, SendStream<Bytes>), Failure> {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let uri = format!("{scheme}://{}{path}", connection.authority).parse::<Uri>().map_err(Failure::lost)?;
        let api_version = version::CLUSTER.rsplit_once('.').map_or(version::CLUSTER, |(version, _)| version);
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(uri)
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::TE, "trailers")
            .header(header::USER_AGENT, concat!("urd/", env!("CARGO_PKG_VERSION")))
            .header("client-api-version", api_version)
            .body(())
            .map_err(Failure::lost)?;
        if let Some(token) = &*self.token.borrow() {
            request.headers_mut().insert("token", token.clone());
        }
        let mut requests = connection.requests.clone().ready().await.map_err(Failure::lost)?;
        requests.send_request(request, false).map_err(Failure::lost)
    }

    /// The connection there is, or a new one. Does not come back before there is one.
    async fn connected(&self) -> Rc<Connection> {
        loop {
            let kept = self.connection.borrow().clone();
            if let Some(connection) = kept {
                return connection;
            }
            let avoided = self.avoided.take().filter(|_| self.endpoints.len() > 1);
            let numbers = (0..self.endpoints.len()).filter(|number| Some(*number) != avoided);
            if let Ok((connection, _)) = select_ok(numbers.map(|number| Box::pin(self.dial(number)))).await {
                let connection = Rc::new(connection);
                *self.connection.borrow_mut() = Some(connection.clone());
                return connection;
            }
            runtime::sleep(Duration::from_millis(limits::DISCOVERY_DIAL_AGAIN_MS)).await;
        }
    }

    /// The next call takes another connection, to another endpoint if there is one.
    fn give_up(&self, connection: &Rc<Connection>) {
        let mut kept = self.connection.borrow_mut();
        if kept.as_ref().is_some_and(|kept| Rc::ptr_eq(kept, connection)) {
            *kept = None;
            self.avoided.set(Some(connection.endpoint));
        }
    }

    async fn dial(&self, number: usize) -> Result<Connection, String> {
        let limit = Duration::from_secs(limits::DISCOVERY_DIAL_SECONDS_MAX);
        runtime::timeout(limit, async {
            let endpoint = &self.endpoints[number];
            let socket = open(&endpoint.place).await?;
            let stream: Box<dyn Stream> = match &self.tls {
                Some(caller) => Box::new(caller.secure(socket, &endpoint.host).await?),
                None => Box::new(socket),
            };
            let handshake = h2::client::Builder::new().enable_push(false).handshake(stream);
            let (requests, mut connection) = handshake.await.map_err(|cause| cause.to_string())?;
            let pings = connection.ping_pong().expect("taken once");
            runtime::spawn(async move {
                // How it ends is told to the calls on it.
                let _ = connection.await;
            });
            let (pings, authority) = (RefCell::new(pings), endpoint.authority.clone());
            Ok(Connection { requests, pings, authority, endpoint: number })
        })
        .await
        .unwrap_or_else(|| Err("i/o timeout".to_owned()))
    }

    /// Waits for what may be long in coming. Where nothing is heard for a while the other side is asked whether it is there.
    async fn kept_alive<T>(
        &self,
        connection: &Connection,
        awaited: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let Some((silence, patience)) = self.keepalive else { return awaited.await };
        let mut awaited = std::pin::pin!(awaited);
        loop {
            if let Some(come) = runtime::timeout(silence, awaited.as_mut()).await {
                return come;
            }
            connection.pings.borrow_mut().send_ping(Ping::opaque()).map_err(Failure::lost)?;
            let pong = poll_fn(|context| connection.pings.borrow_mut().poll_pong(context));
            match runtime::timeout(patience, pong).await {
                Some(pong) => pong.map(drop).map_err(Failure::lost)?,
                None => return Err(Failure::lost("keepalive ping failed to receive ACK within timeout")),
            }
        }
    }
}

/// TLS is spoken where the first endpoint says so; where it says neither, if there is anything that belongs to TLS. (etcd:
/// client/v3, newTLSConfig and credentialsForEndpoint.)
fn caller(service: &Service) -> Result<Option<Caller>, String> {
    let first = service.endpoints.first().map_or("", |text| text.trim());
    let (has_cert, has_key) = (!service.cert.as_os_str().is_empty(), !service.key.as_os_str().is_empty());
    if has_cert != has_key {
        let (key, cert) = (service.key.display(), service.cert.display());
        return Err(format!("KeyFile and CertFile must both be present[key: {key}, cert: {cert}]"));
    }
    let files = Files {
        cert: service.cert.clone(),
        key: service.key.clone(),
        trusted_ca: service.trusted_ca.clone(),
        ..Files::default()
    };
    let is_set_up = has_cert
        || !service.trusted_ca.as_os_str().is_empty()
        || !service.insecure_transport
        || service.insecure_skip_verify;
    let is_demanded = first.starts_with("https://") || first.starts_with("unixs:");
    // Files are looked at whether or not they come to be used.
    let caller = match is_set_up || is_demanded {
        true => Some(Caller::of_grpc(&files, service.insecure_skip_verify)?),
        false => None,
    };
    Ok(caller.filter(|_| !first.starts_with("http://")))
}

async fn open(place: &Place) -> Result<Socket, String> {
    let connect =
        |address: Address| async { Socket::connect(address, Rc::default()).await.map_err(|cause| in_go_words(&cause)) };
    let (host, port) = match place {
        Place::Unix(path) => return connect(Address::Unix(path.into())).await,
        Place::Inet { host, port } => (host, *port),
    };
    let addresses = match host.parse::<IpAddr>() {
        Ok(address) => vec![address],
        Err(_) => names::addresses_of(host.clone()).await.map_err(|cause| cause.to_string())?,
    };
    let mut failed = "no such host".to_owned();
    for address in addresses {
        match connect(Address::Inet(SocketAddr::new(address, port))).await {
            Ok(socket) => return Ok(socket),
            Err(cause) => failed = cause,
        }
    }
    Err(failed)
}

async fn within<T>(patience: Option<Duration>, asked: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    match patience {
        Some(patience) => runtime::timeout(patience, asked).await.unwrap_or(Err(Failure::Late)),
        None => asked.await,
    }
}

/// A prefix as a range. None of those that are asked for ends with the highest byte.
fn range_of(prefix: &str) -> (Bytes, Bytes) {
    let mut end = prefix.as_bytes().to_vec();
    *end.last_mut().expect("a prefix is not empty") += 1;
    (prefix.to_owned().into(), end.into())
}

/// The answer's body, once its head says that it is one. A refusal may have no body.
async fn body_of(response: ResponseFuture) -> Result<RecvStream, Failure> {
    let (head, body) = response.await.map_err(Failure::lost)?.into_parts();
    if head.status != StatusCode::OK {
        let message = format!("unexpected HTTP status code received from server: {}", head.status);
        return Err(Failure::lost(message));
    }
    if head.headers.contains_key("grpc-status") {
        check(&head.headers)?;
    }
    Ok(body)
}

/// Takes in what comes next; false: the call has ended well.
async fn read(body: &mut RecvStream, bytes: &mut BytesMut) -> Result<bool, Failure> {
    let Some(piece) = body.data().await else {
        let trailers = body.trailers().await.map_err(Failure::lost)?;
        check(&trailers.ok_or_else(|| Failure::lost("an answer without trailers"))?)?;
        return Ok(false);
    };
    let piece = piece.map_err(Failure::lost)?;
    body.flow_control().release_capacity(piece.len()).map_err(Failure::lost)?;
    if bytes.len() + piece.len() > limits::DISCOVERY_ANSWER_BYTES_MAX {
        return Err(Failure::Refused(Status::new(Code::ResourceExhausted, "an answer of the service is too large")));
    }
    bytes.extend_from_slice(&piece);
    Ok(true)
}

/// The next message, if all of it is there.
fn message<A: Message + Default>(bytes: &mut BytesMut) -> Result<Option<A>, Failure> {
    let Some((prefix, _)) = bytes.split_first_chunk::<PREFIX_BYTES>() else { return Ok(None) };
    let [is_compressed, length @ ..] = *prefix;
    if is_compressed != 0 {
        return Err(Failure::lost("a compressed answer, which nobody has asked for"));
    }
    let end = PREFIX_BYTES + u32::from_be_bytes(length) as usize;
    if bytes.len() < end {
        return Ok(None);
    }
    A::decode(bytes.split_to(end).freeze().slice(PREFIX_BYTES..)).map(Some).map_err(Failure::lost)
}

/// The status of a call, in its trailers or, where it has no body, in its head.
fn check(headers: &HeaderMap) -> Result<(), Failure> {
    let bytes = |name: &str| headers.get(name).map(HeaderValue::as_bytes).unwrap_or_default();
    let code =
        std::str::from_utf8(bytes("grpc-status")).ok().and_then(|text| text.parse().ok()).and_then(Code::of_number);
    match code.unwrap_or(Code::Unknown) {
        Code::Ok => Ok(()),
        code => Err(Failure::Refused(Status::new(code, unescaped(bytes("grpc-message"))))),
    }
}

/// gRPC spells what is no printable ASCII as %XX; what only looks like that stays as it is.
fn unescaped(text: &[u8]) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, tail)) = rest.split_first() {
        let hex = tail.get(..2).filter(|_| *first == b'%').and_then(|hex| std::str::from_utf8(hex).ok());
        let byte = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        out.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// What happens to some keys, until it is dropped.
pub(super) struct Watch<'a> {
    client: &'a Client,
    connection: Rc<Connection>,
    /// Nothing more is said on it; dropped, it would end the watch.
    _requests: SendStream<Bytes>,
    body: RecvStream,
    bytes: BytesMut,
}

impl Watch<'_> {
    /// What has happened next.
    ///
    /// # Errors
    /// That the watch is over, and why.
    pub async fn next(&mut self) -> Result<WatchResponse, Failure> {
        let Watch { client, connection, body, bytes, .. } = self;
        let told: Result<WatchResponse, Failure> = async {
            loop {
                if let Some(told) = message(bytes)? {
                    return Ok(told);
                }
                if !client.kept_alive(connection, read(body, bytes)).await? {
                    return Err(Failure::lost("the watch has ended"));
                }
            }
        }
        .await;
        match told {
            Ok(told) if told.canceled => {
                let reason = match told.compact_revision {
                    0 => told.cancel_reason,
                    _ => error::COMPACTED.message.into_owned(),
                };
                Err(Failure::Refused(Status::new(Code::Unknown, reason)))
            }
            Err(failure) if failure.may_pass() => {
                client.give_up(connection);
                Err(failure)
            }
            told => told,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read_as_etcds_client_reads_them() {
        let inet = |text: &str, host: &str, port, authority: &str| {
            let place = Place::Inet { host: host.into(), port };
            let wanted = Endpoint { place, authority: authority.into(), host: host.into() };
            assert_eq!(endpoint_of(text), wanted, "{text}");
        };
        inet("127.0.0.1:1", "127.0.0.1", 1, "127.0.0.1:1");
        inet(" http://a.test:2379 ", "a.test", 2379, "a.test:2379");
        inet("https://[::1]:2", "::1", 2, "[::1]:2");
        inet("https://a.test/path", "a.test", 443, "a.test");
        for (text, path, host) in [("unix:///run/a.sock", "/run/a.sock", "a.sock"), ("unixs:b:1", "b:1", "b")] {
            let place = Place::Unix(path.into());
            assert_eq!(endpoint_of(text), Endpoint { place, authority: "localhost".into(), host: host.into() });
        }
    }

    #[test]
    fn failures_are_told_as_etcds_client_tells_them() {
        let refused = |status| Failure::Refused(status).to_string();
        assert_eq!(refused(error::PERMISSION_DENIED), "etcdserver: permission denied");
        assert_eq!(refused(Status::new(Code::Internal, "x")), "rpc error: code = Internal desc = x");
        assert_eq!(Failure::Late.to_string(), "context deadline exceeded");
        assert!(Failure::Refused(error::NO_LEADER).may_pass() && Failure::Lost("x".into()).may_pass());
        assert!(!Failure::Refused(error::PERMISSION_DENIED).may_pass() && !Failure::Late.may_pass());
        assert!(Failure::Refused(error::INVALID_AUTH_TOKEN).wants_token());
        assert!(!Failure::Refused(error::AUTH_FAILED).wants_token());
    }

    #[test]
    fn the_status_of_a_call_is_read_wherever_it_stands() {
        let headers = |status: &str, message: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-status", HeaderValue::from_str(status).unwrap());
            headers.insert("grpc-message", HeaderValue::from_static(message));
            check(&headers).map_err(|failure| failure.to_string())
        };
        assert_eq!(headers("0", ""), Ok(()));
        assert_eq!(headers("14", "etcdserver: no leader"), Err("etcdserver: no leader".into()));
        assert_eq!(headers("2", "a%20b%zz%"), Err("rpc error: code = Unknown desc = a b%zz%".into()));
        assert_eq!(headers("99", "x"), Err("rpc error: code = Unknown desc = x".into()));
        assert!(check(&HeaderMap::new()).is_err());
    }

    #[test]
    fn messages_are_found_however_they_are_cut() {
        let sent = Frame::of(&PutRequest { key: "k".into(), ..PutRequest::default() }).seal();
        let both = [&sent[..], &sent[..]].concat();
        let mut bytes = BytesMut::new();
        let mut found = 0;
        for byte in both {
            bytes.extend_from_slice(&[byte]);
            if let Some(message) = message::<PutRequest>(&mut bytes).unwrap() {
                assert_eq!(&message.key[..], b"k");
                found += 1;
            }
        }
        assert_eq!((found, bytes.len()), (2, 0));
        assert!(message::<PutRequest>(&mut BytesMut::from(&[1, 0, 0, 0, 0][..])).is_err());
    }
}
