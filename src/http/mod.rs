//! What is served over HTTP/1.1. On the client and metrics listeners: health checks, versions, metrics, debug variables, and
//! the API in JSON. Statuses, headers and bodies are those of etcd, down to the line ends, for probes and scripts compare
//! them. It knows no shard: what the answers need comes from a `Source`, and what is called through a `Gateway` goes where
//! gRPC goes. On the listeners for members: what they ask each other (`peer`). (etcd: etcdhttp, embed/serve.go; Go: net/http's mux.)

mod answer;
mod body;
mod debug;
pub mod gateway;
mod health;
mod http2;
mod log_level;
mod path;
pub mod peer;
mod strict;

#[cfg(test)]
mod tests;

use std::{
    cell::Cell,
    convert::Infallible,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    rc::Rc,
    time::Duration,
};

use futures_util::future::{Either, select};
use http::{HeaderMap, Method, Request, StatusCode, header};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use tokio::io::{AsyncRead, AsyncWrite};

use self::{
    answer::{Answer, allow_get, not_found, redirect},
    gateway::{Chunks, Gateway, websocket},
    path::{Cleaned, Query},
};
use crate::{
    error::Status,
    grpc::{LocalBoxFuture, Metadata},
    limits, log,
    net::ForHyper,
    observe::{
        log::shown,
        metrics::{HealthMetrics, text},
    },
    runtime::{self, socket::Address},
    version,
};

/// An alarm that is active in the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alarm {
    NoSpace,
    Corrupt,
    /// Of a kind that a later release may know.
    Unknown,
}

impl Alarm {
    pub fn name(self) -> &'static str {
        match self {
            Alarm::NoSpace => "NOSPACE",
            Alarm::Corrupt => "CORRUPT",
            Alarm::Unknown => "UNKNOWN",
        }
    }
}

/// Raft's state as `/debug/vars` shows it.
#[derive(Clone, Debug, Default)]
pub struct RaftStatus {
    pub id: u64,
    pub term: u64,
    pub vote: u64,
    pub commit: u64,
    /// 0: none.
    pub leader: u64,
    pub applied: u64,
    /// `StateLeader`, `StateFollower`, `StateCandidate` or `StatePreCandidate`.
    pub state: &'static str,
    /// On a leader, for each member: its id, the highest index it is known to hold, and the next to send.
    pub progress: Vec<(u64, u64, u64)>,
}

impl Surface {
    pub fn takes_grpc(self) -> bool {
        matches!(self, Surface::Client | Surface::Grpc)
    }

    pub fn takes_http(self) -> bool {
        self != Surface::Grpc
    }

    /// What is spoken there, as etcd's logs have it.
    pub fn traffic(self) -> &'static str {
        match self {
            Surface::Client => "grpc+http",
            Surface::Grpc => "grpc",
            Surface::Http | Surface::Metrics | Surface::Peer => "http",
        }
    }
}

/// What the answers are made of.
pub trait Source {
    fn alarms(&self) -> Vec<Alarm>;
    fn has_leader(&self) -> bool;
    fn is_learner(&self) -> bool;
    /// Reads one key, after a read index if `linearizable`; not subject to auth. Ends by itself when a request would.
    fn read(&self, linearizable: bool) -> LocalBoxFuture<Result<(), Status>>;
    /// `3.7.0`; None before it is decided.
    fn cluster_version(&self) -> Option<String>;
    /// The version of the storage's schema; None before it is known.
    fn storage_version(&self) -> Option<String>;
    /// Everything in Prometheus' text form (`observe::metrics::render`).
    fn metrics(&self) -> String;
    fn raft_status(&self) -> RaftStatus;
    fn health_metrics(&self) -> &HealthMetrics;
    /// Whether who calls has to be a user.
    fn asks_for_users(&self) -> bool;
    /// Whether who shows this may do what is the operator's: anybody while no users are asked for, then root alone.
    fn operates(&self, shown: Metadata, certified: Option<Rc<str>>) -> Result<(), Status>;
    /// `--cors`.
    fn cors(&self) -> &[String];
    /// `--host-whitelist`.
    fn host_whitelist(&self) -> &[String];
}

/// Which listener a connection came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Surface {
    /// Everything, with the checks of hosts and origins; gRPC beside it.
    Client,
    /// The same without gRPC (`--listen-client-http-urls`).
    Http,
    /// gRPC alone: where HTTP has listeners of its own.
    Grpc,
    /// `/metrics`, `/health`, `/livez` and `/readyz` only.
    Metrics,
    /// What members ask each other, and nothing of it for anybody else.
    Peer,
}

/// What is served on a listener.
#[derive(Clone)]
pub struct Site {
    pub source: Rc<dyn Source>,
    /// None: nothing is under `/v3/`.
    pub gateway: Option<Rc<Gateway>>,
    pub surface: Surface,
    pub security: Security,
    /// As in a `grpc::Origin`.
    pub local: Option<Rc<Address>>,
}

/// What TLS says of a connection and its client.
#[derive(Clone, Debug, Default)]
pub struct Security {
    pub encrypted: bool,
    /// The user that the client's certificate names; as in a `grpc::Call`.
    pub certified: Option<Rc<str>>,
}

impl Site {
    /// Whether a call through the gateway would be taken for that of somebody else than the certificate says.
    fn misleads(&self, path: &str) -> bool {
        let named = self.security.certified.as_ref().is_some_and(|name| !name.is_empty());
        named && self.gateway.is_some() && path.starts_with("/v3/") && self.source.asks_for_users()
    }
}

/// Serves a connection to its end. Once `drain` is ready the request being served is answered, within a bound, and then the
/// connection closes; one that brings no whole request for five to ten minutes closes as well.
pub async fn serve<T>(io: T, site: Site, drain: impl Future<Output = ()>)
where
    T: AsyncRead + AsyncWrite + Unpin + 'static,
{
    serve_while(io, Whose::Clients(site), Duration::from_secs(limits::HTTP_IDLE_SECONDS_MAX), drain).await;
}

/// The same for another member, who is to be heard every five to ten seconds.
pub async fn serve_peer<T>(io: T, source: Rc<dyn peer::Source>, drain: impl Future<Output = ()>)
where
    T: AsyncRead + AsyncWrite + Unpin + 'static,
{
    serve_while(io, Whose::Peers(source), Duration::from_secs(limits::PEER_IDLE_SECONDS_MAX), drain).await;
}

/// Whose requests come, and what they are answered from.
#[derive(Clone)]
enum Whose {
    Clients(Site),
    Peers(Rc<dyn peer::Source>),
}

async fn serve_while<T>(io: T, whose: Whose, period: Duration, drain: impl Future<Output = ()>)
where
    T: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let activity = Rc::new(Activity::default());
    let idle = idle(activity.clone(), period);
    let stop = async move {
        select(pin!(drain), pin!(idle)).await;
    };
    let grace = runtime::sleep(Duration::from_secs(limits::HTTP_DRAIN_SECONDS_MAX));
    serve_until(io, whose, activity, stop, grace).await;
}

/// Requests begun, and how many are being answered.
#[derive(Default)]
struct Activity {
    begun: Cell<u64>,
    serving: Cell<u32>,
}

/// A request that is being answered, until its answer has been read.
struct Serving(Rc<Activity>);

impl Serving {
    fn of(activity: &Rc<Activity>) -> Self {
        activity.begun.set(activity.begun.get() + 1);
        activity.serving.set(activity.serving.get() + 1);
        Serving(activity.clone())
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.serving.set(self.0.serving.get() - 1);
    }
}

/// Ready when a whole period has gone by in which no request was begun or being answered. (Not hyper's own timeout: that
/// wants timers which can move between threads, and this runtime's stay where they are.)
async fn idle(activity: Rc<Activity>, period: Duration) {
    loop {
        let begun = activity.begun.get();
        runtime::sleep(period).await;
        if activity.begun.get() == begun && activity.serving.get() == 0 {
            return;
        }
    }
}

/// `grace` begins once `stop` has come.
async fn serve_until<T>(
    io: T,
    whose: Whose,
    activity: Rc<Activity>,
    stop: impl Future<Output = ()>,
    grace: impl Future<Output = ()>,
) where
    T: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let (mut stop, mut grace) = (pin!(stop), pin!(grace));
    let session: Rc<Cell<Option<websocket::Session>>> = Rc::default();
    let (accepted, requests) = (session.clone(), activity.clone());
    let service = service_fn(move |request: Request<Incoming>| {
        let (whose, session, serving) = (whose.clone(), accepted.clone(), Serving::of(&requests));
        // In a box: the connection is taken apart if it becomes a websocket's.
        Box::pin(async move {
            let mut answer = match (strict::refuse(&request), &whose) {
                (Some(refusal), _) => refusal,
                (None, Whose::Clients(site)) => respond(site, request, &session).await,
                (None, Whose::Peers(source)) => peer::respond(source, request).await,
            };
            answer.body_mut().hold(serving);
            Ok::<_, Infallible>(answer)
        })
    });
    let mut connection = http1::Builder::new()
        .max_buf_size(limits::HTTP_HEAD_BYTES_MAX)
        .max_headers(limits::HTTP_HEADERS_MAX)
        .title_case_headers(true)
        .serve_connection(ForHyper(io), service);
    let mut ended = match select(poll_fn(|context| connection.poll_without_shutdown(context)), stop.as_mut()).await {
        Either::Left((ended, _)) => Some(ended),
        Either::Right(_) => None,
    };
    let stopped = ended.is_none();
    if stopped {
        Pin::new(&mut connection).graceful_shutdown();
        // A head that never ends, or an answer that is never read, must not hold the drain up.
        ended = match select(poll_fn(|context| connection.poll_without_shutdown(context)), grace.as_mut()).await {
            Either::Left((ended, _)) => Some(ended),
            Either::Right(_) => None,
        };
    }
    match ended {
        None => return,
        Some(Err(error)) => {
            log!(Debug, "HTTP connection ended", "error" = shown(error));
            return;
        }
        Some(Ok(())) => {}
    }
    let http1::Parts { io: ForHyper(mut io), read_buf, .. } = connection.into_parts();
    let Some(session) = session.take() else {
        // Who does not let itself be told is gone.
        let _ = poll_fn(|context| Pin::new(&mut io).poll_shutdown(context)).await;
        return;
    };
    let mut served = pin!(websocket::serve(io, read_buf, session));
    if stopped || matches!(select(served.as_mut(), stop).await, Either::Right(_)) {
        select(served, grace).await;
    }
}

/// Checks that hold for every path, then the path's own answer.
async fn respond<B>(site: &Site, request: Request<B>, session: &Cell<Option<websocket::Session>>) -> Answer
where
    B: Chunks + 'static,
{
    let source = &*site.source;
    let host = match host(&request) {
        Some(host) => host,
        None => return answer::bad_request("400 Bad Request: missing required Host header"),
    };
    if request.uri().path() == "*" {
        return answer::empty();
    }
    let Some(mut path) = path::decode(request.uri().path()) else {
        return answer::bad_request("400 Bad Request");
    };
    if site.surface == Surface::Metrics {
        return route(site, request, &path, session).await;
    }
    // The name of a release that is long gone.
    if let Some(rest) = path.strip_prefix("/v3beta/") {
        path = format!("/v3/{rest}");
    }
    // Who shows a host's certificate is that host.
    if !site.security.encrypted && !allows(source.host_whitelist(), host) {
        log!(Warn, "rejecting HTTP request to prevent DNS rebinding attacks", "host" = host);
        return answer::misdirected(host);
    }
    if site.misleads(&path) {
        let told = "CommonName of client sending a request against gateway will be ignored and not used as expected";
        return answer::error(StatusCode::BAD_REQUEST, told);
    }
    let origin = allowed_origin(source.cors(), request.headers()).map(str::to_owned);
    let mut answer = match *request.method() {
        Method::OPTIONS => answer::empty(),
        _ => route(site, request, &path, session).await,
    };
    if let Some(origin) = origin {
        answer::allow_origin(&mut answer, &origin);
    }
    answer
}

async fn route<B: Chunks + 'static>(
    site: &Site,
    request: Request<B>,
    path: &str,
    session: &Cell<Option<websocket::Session>>,
) -> Answer {
    let (source, surface) = (&*site.source, site.surface);
    let method = request.method();
    if method == Method::CONNECT {
        // It names no path.
        return not_found();
    }
    if let Cleaned::Elsewhere(clean) = path::clean(path) {
        return redirect(method, &clean, request.uri().query());
    }
    if let Some(gateway) = site.gateway.as_ref().filter(|_| surface != Surface::Metrics) {
        if path == "/v3" {
            return redirect(method, "/v3/", request.uri().query());
        }
        if path.starts_with("/v3/") {
            return gateway.answer(path, request, site.local.as_ref(), session).await;
        }
    }
    if request.version() == http::Version::HTTP_2
        && surface == Surface::Client
        && let Some(refusal) = http2::refuse_grpc(&request)
    {
        return refusal;
    }
    let query = Query::new(request.uri().query().unwrap_or(""));
    match path {
        "/health" => health::health(source, method, &query).await,
        "/metrics" => answer::metrics(source.metrics(), text::CONTENT_TYPE),
        _ if path.starts_with("/livez") || path.starts_with("/readyz") => {
            health::checks(source, method, path, &query).await
        }
        "/version" if surface != Surface::Metrics => match *method {
            Method::GET => answer::json("application/json", versions(source, version::ETCD)),
            _ => allow_get(),
        },
        "/urd/log/level" if surface != Surface::Metrics => log_level::answer(site, method, request.headers(), &query),
        "/debug/vars" if surface != Surface::Metrics => match *method {
            Method::GET => answer::json("application/json; charset=utf-8", debug::variables(&source.raft_status())),
            _ => allow_get(),
        },
        _ => not_found(),
    }
}

fn versions(source: &dyn Source, server: &str) -> String {
    let cluster = source.cluster_version().unwrap_or_else(|| "not_decided".into());
    let storage = source.storage_version().unwrap_or_else(|| "unknown".into());
    format!(r#"{{"etcdserver":"{server}","etcdcluster":"{cluster}","storage":"{storage}"}}"#)
}

/// The host a request is addressed to, as it stands; None where HTTP/1.1 demands one and there is none.
fn host<B>(request: &Request<B>) -> Option<&str> {
    if let Some(authority) = request.uri().authority() {
        return Some(authority.as_str());
    }
    match request.headers().get(header::HOST) {
        Some(host) => host.to_str().ok(),
        None if request.version() < http::Version::HTTP_11 => Some(""),
        None => None,
    }
}

/// Whether the host, without its port, is on the list.
fn allows(list: &[String], host: &str) -> bool {
    let name = path::without_port(host);
    list.is_empty() || list.iter().any(|allowed| allowed == "*" || allowed == name)
}

/// What `Access-Control-Allow-Origin` is to say, if anything.
fn allowed_origin<'a>(list: &[String], headers: &'a HeaderMap) -> Option<&'a str> {
    if list.is_empty() || list.iter().any(|allowed| allowed == "*") {
        return Some("*");
    }
    let origin = headers.get(header::ORIGIN)?.to_str().ok()?;
    list.iter().any(|allowed| allowed == origin).then_some(origin)
}
