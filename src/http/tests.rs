//! Raw requests in, raw answers out, over a connection in memory. The answers wanted are the reference 3.7.3 server's
//! (started with `--enable-grpc-gateway=false`), without its dates.

use std::{
    pin::Pin,
    task::{Context, Poll, Waker},
};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf, duplex};

use super::*;
use crate::error;

pub(super) struct Fake {
    alarms: Vec<Alarm>,
    leader: bool,
    learner: bool,
    readable: Result<(), Status>,
    cors: Vec<String>,
    hosts: Vec<String>,
    health: HealthMetrics,
}

impl Default for Fake {
    fn default() -> Self {
        Fake {
            alarms: Vec::new(),
            leader: true,
            learner: false,
            readable: Ok(()),
            cors: vec!["http://o:1".into()],
            hosts: vec!["*".into()],
            health: HealthMetrics::default(),
        }
    }
}

impl Source for Fake {
    fn alarms(&self) -> Vec<Alarm> {
        self.alarms.clone()
    }
    fn has_leader(&self) -> bool {
        self.leader
    }
    fn is_learner(&self) -> bool {
        self.learner
    }
    fn read(&self, linearizable: bool) -> LocalBoxFuture<Result<(), Status>> {
        let result = if linearizable { self.readable.clone() } else { Ok(()) };
        Box::pin(async move { result })
    }
    fn cluster_version(&self) -> Option<String> {
        self.leader.then(|| version::CLUSTER.into())
    }
    fn storage_version(&self) -> Option<String> {
        self.leader.then(|| version::STORAGE.into())
    }
    fn metrics(&self) -> String {
        "# TYPE a gauge\na 1\n".into()
    }
    fn raft_status(&self) -> RaftStatus {
        RaftStatus { id: 0xab, term: 2, state: "StateLeader", progress: vec![(0xab, 4, 5)], ..Default::default() }
    }
    fn health_metrics(&self) -> &HealthMetrics {
        &self.health
    }
    fn asks_for_users(&self) -> bool {
        true
    }
    fn operates(&self, shown: crate::grpc::Metadata, _: Option<Rc<str>>) -> Result<(), Status> {
        match shown.get("authorization") {
            Some(b"of-root") => Ok(()),
            Some(_) => Err(error::PERMISSION_DENIED),
            None => Err(error::USER_EMPTY),
        }
    }
    fn cors(&self) -> &[String] {
        &self.cors
    }
    fn host_whitelist(&self) -> &[String] {
        &self.hosts
    }
}

fn exchange_on(fake: Fake, surface: Surface, request: &str, drained: bool) -> (String, bool) {
    let site = Site { source: Rc::new(fake), gateway: None, surface, security: Security::default(), local: None };
    exchange_with(Whose::Clients(site), request, drained)
}

/// What comes back for `request`, without the date, and whether the server hung up. Everything is in memory, so a poll
/// that changes nothing means that nothing more will come.
pub(super) fn exchange_with(whose: Whose, request: &str, drained: bool) -> (String, bool) {
    let (mut ours, theirs) = duplex(1 << 20);
    let mut context = Context::from_waker(Waker::noop());
    let stop = async move {
        if !drained {
            std::future::pending::<()>().await;
        }
    };
    let mut server = pin!(serve_until(theirs, whose, Rc::default(), stop, std::future::ready(())));
    let sent = Pin::new(&mut ours).poll_write(&mut context, request.as_bytes());
    assert!(matches!(sent, Poll::Ready(Ok(bytes)) if bytes == request.len()));
    let mut closed = false;
    for _ in 0..16 {
        closed = closed || server.as_mut().poll(&mut context).is_ready();
    }
    let mut bytes = vec![0; 1 << 20];
    let mut buffer = ReadBuf::new(&mut bytes);
    let _ = Pin::new(&mut ours).poll_read(&mut context, &mut buffer);
    let text = String::from_utf8(buffer.filled().to_vec()).unwrap();
    let kept = text.split_inclusive("\r\n").filter(|line| !line.starts_with("Date: "));
    (kept.collect(), closed)
}

/// Status line, sorted headers, body.
fn exchange(fake: Fake, surface: Surface, method: &str, path: &str, headers: &str) -> (String, Vec<String>, String) {
    let site = Site { source: Rc::new(fake), gateway: None, surface, security: Security::default(), local: None };
    exchange_of(Whose::Clients(site), method, path, headers)
}

pub(super) fn exchange_of(whose: Whose, method: &str, path: &str, headers: &str) -> (String, Vec<String>, String) {
    let request = format!("{method} {path} HTTP/1.1\r\nHost: localhost:2379\r\n{headers}\r\n");
    let (text, _) = exchange_with(whose, &request, false);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{method} {path}: {text:?}"));
    let mut lines = head.split("\r\n").map(str::to_owned);
    let status = lines.next().unwrap();
    let mut headers: Vec<String> = lines.collect();
    headers.sort();
    (status, headers, body.to_owned())
}

const TEXT: &str = "Content-Type: text/plain; charset=utf-8";
const NOSNIFF: &str = "X-Content-Type-Options: nosniff";

#[test]
fn every_path_answers_as_the_reference_does() {
    let length = |body: &str| format!("Content-Length: {}", body.len());
    let healthy = "{\"health\":\"true\",\"reason\":\"\"}";
    let not_allowed = "Method Not Allowed\n";
    let not_found = "404 page not found\n";
    let ready = "[+]data_corruption ok\n[+]linearizable_read ok\n[+]non_learner ok\n[+]serializable_read ok\nok\n";
    let versions = "{\"etcdserver\":\"3.7.3\",\"etcdcluster\":\"3.7.0\",\"storage\":\"3.7.0\"}";
    let html = "Content-Type: text/html; charset=utf-8";
    for (method, path, status, headers, body) in [
        ("GET", "/health", "200 OK", &[TEXT][..], healthy),
        ("GET", "/%68ealth", "200 OK", &[TEXT], healthy),
        ("GET", "http://x/health", "200 OK", &[TEXT], healthy),
        ("GET", "/health?exclude=NOSPACE&exclude=FOO", "200 OK", &[TEXT], healthy),
        ("PUT", "/health", "405 Method Not Allowed", &["Allow: GET", TEXT, NOSNIFF], not_allowed),
        ("DELETE", "/livez", "405 Method Not Allowed", &["Allow: GET", TEXT, NOSNIFF], not_allowed),
        ("POST", "/version", "405 Method Not Allowed", &["Allow: GET", TEXT, NOSNIFF], not_allowed),
        ("PUT", "/debug/vars", "405 Method Not Allowed", &["Allow: GET", TEXT, NOSNIFF], not_allowed),
        ("GET", "/livez", "200 OK", &[TEXT, NOSNIFF], "ok\n"),
        ("GET", "/livez?verbose", "200 OK", &[TEXT, NOSNIFF], "[+]serializable_read ok\nok\n"),
        ("GET", "/livez/serializable_read", "200 OK", &[TEXT, NOSNIFF], "ok\n"),
        ("GET", "/livez/non_learner", "404 Not Found", &[TEXT, NOSNIFF], not_found),
        ("PUT", "/livez/nope", "404 Not Found", &[TEXT, NOSNIFF], not_found),
        ("GET", "/livez/", "404 Not Found", &[TEXT, NOSNIFF], not_found),
        ("GET", "/livezx", "404 Not Found", &[TEXT, NOSNIFF], not_found),
        ("GET", "/readyz?verbose", "200 OK", &[TEXT, NOSNIFF], ready),
        (
            "GET",
            "/readyz?verbose&exclude=non_learner&exclude=data_corruption&exclude=nope",
            "200 OK",
            &[TEXT, NOSNIFF],
            "[+]linearizable_read ok\n[+]serializable_read ok\nok\n",
        ),
        ("GET", "/readyz/non_learner?verbose", "200 OK", &[TEXT, NOSNIFF], "[+]non_learner ok\nok\n"),
        ("GET", "/version", "200 OK", &["Content-Type: application/json"], versions),
        ("GET", "/", "404 Not Found", &[TEXT, NOSNIFF], not_found),
        ("GET", "/health/", "404 Not Found", &[TEXT, NOSNIFF], not_found),
        ("GET", "/v3/kv/put", "404 Not Found", &[TEXT, NOSNIFF], not_found),
        ("GET", "/v2/keys", "404 Not Found", &[TEXT, NOSNIFF], not_found),
        ("GET", "/debug/pprof/", "404 Not Found", &[TEXT, NOSNIFF], not_found),
        (
            "GET",
            "//health?x=1",
            "307 Temporary Redirect",
            &[html, "Location: /health?x=1"],
            "<a href=\"/health?x=1\">Temporary Redirect</a>.\n\n",
        ),
        ("PUT", "//health", "307 Temporary Redirect", &["Location: /health"], ""),
        ("GET", "/a%zz", "400 Bad Request", &["Connection: close", TEXT], "400 Bad Request"),
        ("OPTIONS", "/health", "200 OK", &[], ""),
        ("OPTIONS", "*", "200 OK", &[], ""),
        (
            "PUT",
            "/metrics",
            "200 OK",
            &["Content-Type: text/plain; version=0.0.4; charset=utf-8; escaping=underscores"],
            "# TYPE a gauge\na 1\n",
        ),
    ] {
        let mut wanted: Vec<String> = headers.iter().map(|header| header.to_string()).collect();
        wanted.push(length(body));
        wanted.sort();
        let (found_status, found_headers, found_body) = exchange(Fake::default(), Surface::Client, method, path, "");
        assert_eq!(found_status, format!("HTTP/1.1 {status}"), "{method} {path}");
        assert_eq!(found_headers, wanted, "{method} {path}");
        assert_eq!(found_body, body, "{method} {path}");
    }
}

#[test]
fn the_logs_level_is_the_operators() {
    let ask = |surface, method: &str, path: &str, token: &str| {
        let (status, _, body) = exchange(Fake::default(), surface, method, path, token);
        (status.split(' ').nth(1).unwrap().parse::<u16>().unwrap(), body)
    };
    let root = "Authorization: of-root\r\n";
    let path = "/urd/log/level";
    // Tests never lower the level below info, which it is from the start.
    assert_eq!(ask(Surface::Client, "GET", path, root), (200, "{\"level\":\"info\"}\n".into()));
    assert_eq!(ask(Surface::Http, "PUT", "/urd/log/level?level=INFO", root), (200, "{\"level\":\"info\"}\n".into()));
    let unknown = (400, "unrecognized level: \"loud\"\n".into());
    assert_eq!(ask(Surface::Client, "PUT", "/urd/log/level?level=loud", root), unknown);
    assert_eq!(ask(Surface::Client, "PUT", path, root).0, 400);
    assert_eq!(ask(Surface::Client, "POST", path, root).0, 405);
    for method in ["GET", "PUT"] {
        assert_eq!(ask(Surface::Client, method, path, "Authorization: of-ann\r\n").0, 403);
        assert_eq!(ask(Surface::Client, method, path, ""), (400, "etcdserver: user name is empty\n".into()));
        assert_eq!(ask(Surface::Metrics, method, path, root).0, 404);
    }
}

#[test]
fn head_is_answered_without_a_body() {
    for (path, status) in [("/health", "405 Method Not Allowed"), ("/foo", "404 Not Found"), ("/metrics", "200 OK")] {
        let (found, headers, body) = exchange(Fake::default(), Surface::Client, "HEAD", path, "");
        assert_eq!((found, body), (format!("HTTP/1.1 {status}"), String::new()));
        assert!(headers.contains(&"Content-Length: 19".to_owned()), "{headers:?}");
    }
}

#[test]
fn what_is_wrong_is_named() {
    let no_space = || Fake { alarms: vec![Alarm::NoSpace], ..Fake::default() };
    let corrupt = || Fake { alarms: vec![Alarm::NoSpace, Alarm::Corrupt], ..Fake::default() };
    let no_leader = || Fake { leader: false, ..Fake::default() };
    let timeout = || Fake { readable: Err(error::TIMEOUT), ..Fake::default() };
    let learner = || Fake { learner: true, ..Fake::default() };
    let cases: [(Fake, &str, u16, &str); 14] = [
        (no_space(), "/health", 503, "{\"health\":\"false\",\"reason\":\"ALARM NOSPACE\"}\n"),
        (no_space(), "/health?exclude=NOSPACE", 200, "{\"health\":\"true\",\"reason\":\"\"}"),
        (no_space(), "/readyz", 200, "ok\n"),
        (corrupt(), "/health?exclude=NOSPACE", 503, "{\"health\":\"false\",\"reason\":\"ALARM CORRUPT\"}\n"),
        (corrupt(), "/readyz/data_corruption", 503, "[-]data_corruption failed: alarm activated: CORRUPT\n\n"),
        (no_leader(), "/health", 503, "{\"health\":\"false\",\"reason\":\"RAFT NO LEADER\"}\n"),
        (no_leader(), "/health?serializable=true", 200, "{\"health\":\"true\",\"reason\":\"\"}"),
        (no_leader(), "/livez", 200, "ok\n"),
        (
            no_leader(),
            "/version",
            200,
            "{\"etcdserver\":\"3.7.3\",\"etcdcluster\":\"not_decided\",\"storage\":\"unknown\"}",
        ),
        (
            timeout(),
            "/health",
            503,
            "{\"health\":\"false\",\"reason\":\"RANGE ERROR:etcdserver: request timed out\"}\n",
        ),
        (timeout(), "/health?serializable=true", 200, "{\"health\":\"true\",\"reason\":\"\"}"),
        (timeout(), "/readyz?exclude=linearizable_read", 200, "ok\n"),
        (
            timeout(),
            "/readyz?exclude=linearizable_read&verbose",
            200,
            "[+]data_corruption ok\n[+]non_learner ok\n[+]serializable_read ok\nok\n",
        ),
        (learner(), "/readyz/non_learner", 503, "[-]non_learner failed: not supported for learner\n\n"),
    ];
    for (fake, path, status, body) in cases {
        let (line, headers, found) = exchange(fake, Surface::Client, "GET", path, "");
        assert!(line.starts_with(&format!("HTTP/1.1 {status} ")), "{path}: {line}");
        assert_eq!(found, body, "{path}");
        assert!(status == 200 || headers.contains(&NOSNIFF.to_owned()));
    }
    let (_, _, list) = exchange(timeout(), Surface::Client, "GET", "/readyz", "");
    assert_eq!(
        list,
        "[+]data_corruption ok\n[-]linearizable_read failed: etcdserver: request timed out\n[+]non_learner ok\n\
         [+]serializable_read ok\n\n"
    );
}

#[test]
fn hosts_and_origins_are_checked_on_the_client_listener() {
    let guarded = || Fake { hosts: vec!["127.0.0.1".into()], ..Fake::default() };
    let (line, _, _) = exchange(guarded(), Surface::Client, "GET", "/health", "");
    assert_eq!(line, "HTTP/1.1 421 Misdirected Request");
    let (line, _, _) = exchange(guarded(), Surface::Metrics, "GET", "/health", "");
    assert_eq!(line, "HTTP/1.1 200 OK");

    let allowed = |origin: &str, cors: &str| {
        let fake = Fake { cors: vec![cors.into()], ..Fake::default() };
        let (_, headers, _) = exchange(fake, Surface::Client, "GET", "/health", origin);
        let header = headers.iter().find_map(|header| header.strip_prefix("Access-Control-Allow-Origin: "));
        header.map(str::to_owned)
    };
    assert_eq!(allowed("Origin: http://o:1\r\n", "http://o:1").as_deref(), Some("http://o:1"));
    assert_eq!(allowed("Origin: http://o:2\r\n", "http://o:1"), None);
    assert_eq!(allowed("", "*").as_deref(), Some("*"));
}

#[test]
fn the_metrics_listener_serves_metrics_and_health_only() {
    for (path, status) in
        [("/metrics", 200), ("/health", 200), ("/readyz", 200), ("/version", 404), ("/debug/vars", 404)]
    {
        let (line, _, _) = exchange(Fake::default(), Surface::Metrics, "GET", path, "");
        assert!(line.starts_with(&format!("HTTP/1.1 {status} ")), "{path}: {line}");
    }
}

#[test]
fn debug_variables_are_json() {
    let (_, _, body) = exchange(Fake::default(), Surface::Client, "GET", "/debug/vars", "");
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body["raft.status"]["progress"]["ab"]["next"], 5);
    assert!(body["cmdline"].is_array() && body["file_descriptor_limit"].is_u64());
}

#[test]
fn connections_are_kept_until_they_should_not_be() {
    let get = "GET /livez HTTP/1.1\r\nHost: a\r\n\r\n";
    let (text, closed) = exchange_on(Fake::default(), Surface::Client, &get.repeat(2), false);
    assert_eq!((text.matches("200 OK").count(), closed), (2, false));
    let (_, closed) = exchange_on(
        Fake::default(),
        Surface::Client,
        "GET /livez HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        false,
    );
    assert!(closed);
    let (text, closed) = exchange_on(Fake::default(), Surface::Client, get, true);
    assert!(closed, "{text}");
    // Half a head does not hold a drain up.
    let (_, closed) = exchange_on(Fake::default(), Surface::Client, "GET /livez HT", true);
    assert!(closed);
}

#[test]
fn what_is_no_request_is_told_so() {
    let (text, closed) = exchange_on(Fake::default(), Surface::Client, "GET / HTTP/1.1\r\n\r\n", false);
    assert!(
        text.starts_with("HTTP/1.1 400 Bad Request: missing required Host header\r\n")
            && text.ends_with("\r\n400 Bad Request: missing required Host header"),
        "{text}"
    );
    assert!(closed);
    let (text, closed) = exchange_on(Fake::default(), Surface::Client, "GARBAGE\r\n\r\n", false);
    assert!(text.starts_with("HTTP/1.1 400 Bad Request\r\n") && closed, "{text}");
    let (text, closed) = exchange_on(Fake::default(), Surface::Client, "GET /health HTTP/1.0\r\n\r\n", false);
    assert!(text.starts_with("HTTP/1.0 200 OK\r\n") && closed, "{text}");
    let huge = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "a".repeat(2 * limits::HTTP_HEAD_BYTES_MAX));
    let (text, closed) = exchange_on(Fake::default(), Surface::Client, &huge, false);
    assert!(text.starts_with("HTTP/1.1 431 ") && closed, "{text}");
}

/// Slow heads among them: a request that never is one keeps no connection open, however it goes on.
#[test]
fn who_brings_no_request_is_cut_off() {
    runtime::run_test(async {
        for begin in ["", "GET /livez HT", "GET /livez HTTP/1.1\r\nHost: a\r\n\r\n"] {
            let (mut ours, theirs) = duplex(1 << 20);
            let source = Rc::new(Fake::default());
            let (gateway, surface, security, local) = (None, Surface::Client, Security::default(), None);
            let whose = Whose::Clients(Site { source, gateway, surface, security, local });
            let activity = Rc::new(Activity::default());
            let stop = idle(activity.clone(), Duration::from_millis(50));
            let mut served = pin!(serve_until(theirs, whose, activity, stop, std::future::ready(())));
            ours.write_all(begin.as_bytes()).await.unwrap();
            while runtime::timeout(Duration::from_millis(5), served.as_mut()).await.is_none() {
                // A byte more of what is no head yet.
                ours.write_all(b"a").await.unwrap();
            }
        }
    });
}
