//! The API in JSON under `/v3/`, spoken to in raw HTTP/1.1. What each answer looks like to the byte is compared with the
//! reference in `tests/stock/gateway.sh`; here is what holds over time: streams, clients that go, bounds, the end.
//! (etcd API in JSON: etcd's developer guide, "gRPC gateway".)

mod server;

use std::time::Duration;

use serde_json::{Value, json};
use server::{PATIENCE, Server, ended_well, is_reference, signal, soon, users};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use urd_client::authpb::permission::Type;

/// A connection, and what has been read of it.
struct Connection {
    socket: TcpStream,
    read: Vec<u8>,
}

#[derive(Debug)]
struct Head {
    status: u16,
    /// Names in small letters.
    headers: Vec<(String, String)>,
}

impl Head {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    fn is_chunked(&self) -> bool {
        self.header("transfer-encoding") == Some("chunked")
    }
}

impl Connection {
    async fn open(server: &Server) -> Self {
        Connection { socket: TcpStream::connect(&server.address).await.unwrap(), read: Vec::new() }
    }

    async fn send(&mut self, text: impl AsRef<[u8]>) {
        self.socket.write_all(text.as_ref()).await.unwrap();
    }

    /// Reads more; false at the end.
    async fn more(&mut self) -> bool {
        let read = soon(self.socket.read_buf(&mut self.read)).await;
        read.is_ok_and(|bytes| bytes > 0)
    }

    async fn until(&mut self, end: &[u8]) -> Vec<u8> {
        loop {
            if let Some(at) = self.read.windows(end.len()).position(|window| window == end) {
                let rest = self.read.split_off(at + end.len());
                return std::mem::replace(&mut self.read, rest);
            }
            assert!(self.more().await, "the connection ends within {:?}", String::from_utf8_lossy(&self.read));
        }
    }

    async fn bytes(&mut self, len: usize) -> Vec<u8> {
        while self.read.len() < len {
            assert!(self.more().await, "the connection ends early");
        }
        let rest = self.read.split_off(len);
        std::mem::replace(&mut self.read, rest)
    }

    async fn head(&mut self) -> Head {
        let text = String::from_utf8(self.until(b"\r\n\r\n").await).unwrap();
        let mut lines = text.trim_end().split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines
            .map(|line| line.split_once(": ").unwrap())
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .collect();
        Head { status, headers }
    }

    /// None after the last.
    async fn chunk(&mut self) -> Option<Vec<u8>> {
        let size = String::from_utf8(self.until(b"\r\n").await).unwrap();
        let len = usize::from_str_radix(size.trim(), 16).unwrap();
        let mut chunk = self.bytes(len + 2).await;
        chunk.truncate(len);
        (len > 0).then_some(chunk)
    }

    async fn body(&mut self, head: &Head) -> Vec<u8> {
        if !head.is_chunked() {
            let len = head.header("content-length").unwrap().parse().unwrap();
            return self.bytes(len).await;
        }
        let mut body = Vec::new();
        while let Some(chunk) = self.chunk().await {
            body.extend_from_slice(&chunk);
        }
        body
    }

    /// The next line of a chunked body, as JSON. Lines are not cut across chunks where they are small.
    async fn line(&mut self, left: &mut Vec<u8>) -> Option<Value> {
        loop {
            if let Some(at) = left.iter().position(|byte| *byte == b'\n') {
                let rest = left.split_off(at + 1);
                let line = std::mem::replace(left, rest);
                return Some(serde_json::from_slice(&line).unwrap());
            }
            left.extend_from_slice(&self.chunk().await?);
        }
    }
}

fn request(path: &str, body: &str, headers: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n{headers}\r\n{body}", body.len())
}

async fn post_on(connection: &mut Connection, path: &str, body: &str) -> (Head, Value) {
    connection.send(request(path, body, "")).await;
    let head = connection.head().await;
    let body = connection.body(&head).await;
    assert_eq!(head.header("content-type"), Some("application/json"));
    let body = serde_json::from_slice(&body).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&body)));
    (head, body)
}

async fn post(server: &Server, path: &str, body: &str) -> (u16, Value) {
    let (head, body) = post_on(&mut Connection::open(server).await, path, body).await;
    (head.status, body)
}

async fn metric(server: &Server, name: &str) -> f64 {
    let mut connection = Connection::open(server).await;
    connection.send("GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    let head = connection.head().await;
    let text = String::from_utf8(connection.body(&head).await).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("no {name}"));
    line.trim().parse().unwrap()
}

/// Waits until a metric has this value.
async fn becomes(server: &Server, name: &str, value: f64) {
    let begin = std::time::Instant::now();
    while metric(server, name).await != value {
        assert!(begin.elapsed() < PATIENCE, "{name} does not become {value}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_request_is_a_call_of_grpc() {
    let server = Server::start().await;
    let mut connection = Connection::open(&server).await;
    let (head, put) = post_on(&mut connection, "/v3/kv/put", r#"{"key":"Zm9v","value":"YmFy"}"#).await;
    assert_eq!((head.status, head.header("grpc-metadata-content-type")), (200, Some("application/grpc")));
    assert_eq!(put["header"]["revision"], "2");
    // On the same connection.
    let (head, range) = post_on(&mut connection, "/v3/kv/range", r#"{"key":"Zm9v"}"#).await;
    assert_eq!(head.status, 200);
    assert_eq!(range["kvs"][0]["value"], "YmFy");
    assert_eq!((&range["count"], &range["kvs"][0]["version"]), (&json!("1"), &json!("1")));
    let (head, refused) = post_on(&mut connection, "/v3/kv/range", "").await;
    assert_eq!(head.status, 400);
    assert_eq!(refused, json!({"code": 3, "message": "etcdserver: key is not provided"}));
    let handled = "grpc_server_handled_total{grpc_code=\"InvalidArgument\",grpc_method=\"Range\",\
                   grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"}";
    assert_eq!(metric(&server, handled).await, 1.0);
    // The way of gRPC sees the same.
    let client = server.client().await;
    assert_eq!(client.get("foo").await.unwrap().kvs[0].value, "bar");
}

#[tokio::test]
async fn what_cannot_be_answered_is_told_with_its_code() {
    let server = Server::start().await;
    let mut connection = Connection::open(&server).await;
    for (verb, path, status, body) in [
        ("GET", "/v3/kv/range", 501, json!({"code": 12, "message": "Method Not Allowed"})),
        ("POST", "/v3/nothing", 404, json!({"code": 5, "message": "Not Found"})),
        ("POST", "/v3/kv/range/", 404, json!({"code": 5, "message": "Not Found"})),
        ("POST", "/v3/kv/rangestream", 404, json!({"code": 5, "message": "Not Found"})),
    ] {
        connection.send(format!("{verb} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")).await;
        let head = connection.head().await;
        assert_eq!(head.status, status, "{verb} {path}");
        let found: Value = serde_json::from_slice(&connection.body(&head).await).unwrap();
        assert_eq!(found, body, "{verb} {path}");
    }
    for (body, message) in [
        ("[]", "syntax error (line 1:1): unexpected token ["),
        ("{\"key\":5}", "(line 1:8): invalid value for bytes field key: 5"),
    ] {
        let (head, found) = post_on(&mut connection, "/v3/kv/range", body).await;
        assert_eq!(head.status, 400);
        // Which blank it is depends on the reference's build.
        let text = found["message"].as_str().unwrap().replace('\u{a0}', " ");
        assert_eq!(text, format!("proto: {message}"));
    }
    let (head, found) = post_on(&mut connection, "/v3/kv/range", "{").await;
    assert_eq!((head.status, found), (400, json!({"code": 3, "message": "unexpected EOF"})));
    let (_, found) = post_on(&mut connection, "/v3/lease/revoke", "{\"ID\":\"5\"}").await;
    assert_eq!(found, json!({"code": 5, "message": "etcdserver: requested lease not found"}));
}

#[tokio::test]
async fn a_gateway_that_is_not_wanted_is_not_there() {
    let server = Server::start_with(&["--enable-grpc-gateway=false"]).await;
    for path in ["/v3/kv/range", "/v3", "/v3/"] {
        let mut connection = Connection::open(&server).await;
        connection.send(request(path, "{}", "")).await;
        let head = connection.head().await;
        assert_eq!(head.status, 404);
        assert_eq!(connection.body(&head).await, b"404 page not found\n");
    }
}

#[tokio::test]
async fn a_watch_goes_on_while_its_client_does() {
    let server = Server::start().await;
    let mut watch = Connection::open(&server).await;
    watch.send(request("/v3/watch", r#"{"create_request":{"key":"Zm9v","prev_kv":true}}"#, "")).await;
    let head = watch.head().await;
    assert_eq!((head.status, head.header("content-type")), (200, Some("application/json")));
    let mut left = Vec::new();
    let created = watch.line(&mut left).await.unwrap();
    assert_eq!(created["result"]["created"], true);
    let client = server.client().await;
    for value in ["<a>", "b"] {
        client.put("foo", value).await.unwrap();
    }
    let first = watch.line(&mut left).await.unwrap();
    assert_eq!(first["result"]["events"][0]["kv"]["value"], "PGE+");
    let second = watch.line(&mut left).await.unwrap();
    assert_eq!(second["result"]["events"][0]["kv"]["version"], "2");
    assert_eq!(second["result"]["events"][0]["prev_kv"]["value"], "PGE+");
    becomes(&server, "etcd_debugging_mvcc_watcher_total", 1.0).await;
    drop(watch);
    // Who is gone watches nothing.
    becomes(&server, "etcd_debugging_mvcc_watcher_total", 0.0).await;
    let handled = "grpc_server_handled_total{grpc_code=\"Canceled\",grpc_method=\"Watch\",\
                   grpc_service=\"etcdserverpb.Watch\",grpc_type=\"bidi_stream\"}";
    becomes(&server, handled, 1.0).await;
}

#[tokio::test]
async fn a_watch_that_has_not_begun_ends_with_its_client_too() {
    let server = Server::start().await;
    // Nothing that could be answered; and something that is no request, with more behind it.
    for body in ["{}", "junk", "junk {\"create_request\":{\"key\":\"Zm9v\"}}"] {
        let mut watch = Connection::open(&server).await;
        watch.send(request("/v3/watch", body, "")).await;
        becomes(&server, "etcd_debugging_mvcc_watch_stream_total", 1.0).await;
        drop(watch);
        becomes(&server, "etcd_debugging_mvcc_watch_stream_total", 0.0).await;
    }
}

#[tokio::test]
async fn requests_of_a_stream_are_taken_as_they_come() {
    if is_reference() {
        return; // Go's server reads the whole body before it answers.
    }
    let server = Server::start().await;
    let mut watch = Connection::open(&server).await;
    watch.send("POST /v3/watch HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
    let mut left = Vec::new();
    watch.send(chunk(r#"{"create_request":{"key":"#)).await;
    watch.send(chunk(r#""Zm9v","watch_id":7}}{"create_request":{"key":"YmFy","watch_id":8}}"#)).await;
    watch.head().await;
    for id in ["7", "8"] {
        let created = watch.line(&mut left).await.unwrap();
        assert_eq!((&created["result"]["watch_id"], &created["result"]["created"]), (&json!(id), &json!(true)));
    }
    watch.send(chunk("\n{\"cancel_request\":{\"watch_id\":7}}")).await;
    let canceled = watch.line(&mut left).await.unwrap();
    assert_eq!((&canceled["result"]["watch_id"], &canceled["result"]["canceled"]), (&json!("7"), &json!(true)));
    // No more requests; the watch goes on.
    watch.send("0\r\n\r\n").await;
    server.client().await.put("bar", "x").await.unwrap();
    assert_eq!(watch.line(&mut left).await.unwrap()["result"]["watch_id"], "8");
}

#[tokio::test]
async fn a_keep_alive_ends_with_its_requests() {
    let server = Server::start().await;
    let (status, _) = post(&server, "/v3/lease/grant", r#"{"ID":7,"TTL":60}"#).await;
    assert_eq!(status, 200);
    let mut connection = Connection::open(&server).await;
    connection.send(request("/v3/lease/keepalive", r#"{"ID":7}{"ID":"8"}"#, "")).await;
    let head = connection.head().await;
    assert!(head.is_chunked());
    let body = String::from_utf8(connection.body(&head).await).unwrap();
    let lines: Vec<Value> = body.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&lines[0]["result"]["ID"], &lines[0]["result"]["TTL"]), (&json!("7"), &json!("60")));
    assert_eq!((&lines[1]["result"]["ID"], &lines[1]["result"]["TTL"]), (&json!("8"), &Value::Null));
    assert_eq!(lines.len(), 2);
    // The connection is good for more.
    assert_eq!(post_on(&mut connection, "/v3/lease/leases", "{}").await.0.status, 200);
}

#[tokio::test]
async fn a_long_answer_comes_piece_by_piece() {
    let server = Server::start().await;
    let client = server.client().await;
    let value = "v".repeat(10_000);
    for i in 0..600 {
        client.put(format!("k{i:04}"), value.clone()).await.unwrap();
    }
    let mut connection = Connection::open(&server).await;
    connection.send(request("/v3/kv/range", r#"{"key":"aw==","range_end":"bA=="}"#, "")).await;
    let head = connection.head().await;
    assert!(head.status == 200 && head.is_chunked());
    let body: Value = serde_json::from_slice(&connection.body(&head).await).unwrap();
    assert_eq!(body["count"], "600");
    let kvs = body["kvs"].as_array().unwrap();
    assert_eq!((kvs.len(), kvs[599]["value"].as_str().unwrap().len()), (600, 13_336));
    assert_eq!(post_on(&mut connection, "/v3/kv/range", r#"{"key":"aw=="}"#).await.0.status, 200);
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_nothing_up() {
    let server = Server::start().await;
    let client = server.client().await;
    let mut watch = Connection::open(&server).await;
    watch.send(request("/v3/watch", r#"{"create_request":{"key":"Zm9v"}}"#, "")).await;
    watch.head().await;
    let before = server.resident_bytes();
    let value = vec![b'x'; 1 << 20];
    for _ in 0..60 {
        client.put("foo", value.clone()).await.unwrap();
    }
    if !is_reference() {
        let grown = server.resident_bytes().saturating_sub(before);
        // The log keeps 32 MiB and a segment in memory; sixty events in JSON would be 80 MiB more.
        assert!(grown < 100 << 20, "it has grown by {grown} bytes");
    }
    let mut left = Vec::new();
    assert_eq!(watch.line(&mut left).await.unwrap()["result"]["created"], true);
    let mut events = 0;
    while events < 60 {
        let line = watch.line(&mut left).await.unwrap();
        events += line["result"]["events"].as_array().unwrap().len();
    }
}

#[tokio::test]
async fn requests_are_bounded() {
    let server = Server::start().await;
    let put = |bytes: usize| format!(r#"{{"key":"YQ==","value":"{}"}}"#, "QUFB".repeat(bytes / 3));
    let (status, refused) = post(&server, "/v3/kv/put", &put(1_600_000)).await;
    assert_eq!((status, &refused["message"]), (400, &json!("etcdserver: request is too large")));
    let (status, refused) = post(&server, "/v3/kv/put", &put(2_400_000)).await;
    assert_eq!(status, 429);
    assert_eq!(refused["message"], "grpc: received message larger than max (2400008 vs. 2097152)");
    if is_reference() {
        return; // It reads on without a bound.
    }
    let mut connection = Connection::open(&server).await;
    connection.send("POST /v3/kv/put HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n").await;
    let blanks = vec![b' '; 1 << 20];
    for _ in 0..10 {
        // It may have been refused already.
        let _ = connection.socket.write_all(&blanks).await;
    }
    assert_eq!(connection.head().await.status, 429);
    let deep = ["{\"success\":[{\"request_txn\":"; 3000].concat();
    let (status, refused) = post(&server, "/v3/kv/txn", &format!("{deep}{{}}{}", "}]}".repeat(3000))).await;
    assert_eq!((status, &refused["message"]), (400, &json!("proto: exceeded max recursion depth")));
}

#[tokio::test]
async fn a_server_that_stops_ends_its_streams() {
    let mut server = Server::start().await;
    let mut watch = Connection::open(&server).await;
    watch.send(request("/v3/watch", r#"{"create_request":{"key":"Zm9v"}}"#, "")).await;
    watch.head().await;
    let mut left = Vec::new();
    watch.line(&mut left).await.unwrap();
    signal(server.pid(), "TERM");
    if !is_reference() {
        let last = watch.line(&mut left).await.unwrap();
        assert_eq!(last, json!({"error": {"code": 14, "message": "etcdserver: server stopped"}}));
        assert_eq!(watch.line(&mut left).await, None);
    }
    assert!(ended_well(server.wait()));
}

/// With users, and ann's token. She may read and write the key "mine" (bWluZQ==), and not "k" (aw==).
async fn with_users() -> (Server, String) {
    let server = Server::start_with(&[users::CHEAP]).await;
    let client = server.client().await;
    users::add(&client, "ann", &[(Type::Readwrite, "mine", "")]).await;
    users::enable(&client).await;
    let (status, told) = post(&server, "/v3/auth/authenticate", r#"{"name":"ann","password":"pw"}"#).await;
    assert_eq!(status, 200);
    (server, told["token"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn a_token_comes_in_a_header() {
    let (server, token) = with_users().await;
    let ask = async |path: &str, body: &str, header: &str| {
        let mut connection = Connection::open(&server).await;
        connection.send(request(path, body, header)).await;
        let head = connection.head().await;
        if path == "/v3/watch" {
            let line = connection.line(&mut Vec::new()).await.unwrap();
            return (head.status, line["result"].clone());
        }
        let body = connection.body(&head).await;
        (head.status, serde_json::from_slice::<Value>(&body).unwrap())
    };
    let denied = "rpc error: code = PermissionDenied desc = etcdserver: permission denied";
    for header in [
        format!("Authorization: {token}\r\n"),
        format!("Authorization: Bearer {token}\r\n"),
        format!("Grpc-Metadata-Token: {token}\r\n"),
    ] {
        assert_eq!(ask("/v3/kv/put", r#"{"key":"bWluZQ=="}"#, &header).await.0, 200, "{header}");
        let (status, told) = ask("/v3/kv/range", r#"{"key":"aw=="}"#, &header).await;
        assert_eq!((status, &told["message"]), (403, &json!("etcdserver: permission denied")), "{header}");
        let (_, told) = ask("/v3/watch", r#"{"create_request":{"key":"bWluZQ=="}}"#, &header).await;
        assert_eq!((&told["created"], &told["canceled"]), (&json!(true), &Value::Null), "{header}");
        let (_, told) = ask("/v3/watch", r#"{"create_request":{"key":"aw=="}}"#, &header).await;
        assert_eq!((&told["canceled"], &told["cancel_reason"]), (&json!(true), &json!(denied)), "{header}");
    }
    let (status, told) = ask("/v3/kv/range", r#"{"key":"bWluZQ=="}"#, "").await;
    assert_eq!((status, &told["message"]), (400, &json!("etcdserver: user name is empty")));
    let (status, told) = ask("/v3/kv/range", r#"{"key":"bWluZQ=="}"#, "Authorization: nonsense\r\n").await;
    assert_eq!((status, &told["message"]), (401, &json!("etcdserver: invalid auth token")));
}

// ---- websockets ----

async fn upgrade(server: &Server, path: &str, headers: &str) -> (Connection, Head) {
    let mut connection = Connection::open(server).await;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
    );
    connection.send(request).await;
    let head = connection.head().await;
    (connection, head)
}

/// A frame of a client: masked, with a mask that changes nothing.
fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    assert!(payload.len() < 65_536);
    let mut out = vec![0x80 | opcode];
    match payload.len() {
        len @ ..126 => out.push(0x80 | len as u8),
        len => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(len as u16).to_be_bytes());
        }
    }
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(payload);
    out
}

/// The next frame of the server's: what it is, and what is in it.
async fn next_frame(connection: &mut Connection) -> (u8, Vec<u8>) {
    let head = connection.bytes(2).await;
    let len = match head[1] {
        126 => u16::from_be_bytes(connection.bytes(2).await.try_into().unwrap()).into(),
        127 => u64::from_be_bytes(connection.bytes(8).await.try_into().unwrap()),
        len => len.into(),
    };
    (head[0], connection.bytes(len as usize).await)
}

async fn next_text(connection: &mut Connection) -> Value {
    let (kind, payload) = next_frame(connection).await;
    assert_eq!(kind, 0x81, "a whole text");
    serde_json::from_slice(&payload).unwrap()
}

#[tokio::test]
async fn a_watch_over_a_websocket() {
    let server = Server::start().await;
    let (mut watch, head) = upgrade(&server, "/v3/watch", "Sec-WebSocket-Protocol: Bearer, abc\r\n").await;
    assert_eq!(head.status, 101);
    assert_eq!(head.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert_eq!(head.header("sec-websocket-protocol"), Some("Bearer"));
    watch.send(frame(1, br#"{"create_request":{"key":"Zm9v"}}"#)).await;
    assert_eq!(next_text(&mut watch).await["result"]["created"], true);
    let client = server.client().await;
    client.put("foo", vec![b'x'; 200_000]).await.unwrap();
    let event = next_text(&mut watch).await;
    assert_eq!(event["result"]["events"][0]["kv"]["value"].as_str().unwrap().len(), 266_668);
    // A ping is answered, two requests in two messages are two.
    watch.send(frame(9, b"hello")).await;
    assert_eq!(next_frame(&mut watch).await, (0x8a, b"hello".to_vec()));
    watch.send([frame(1, br#"{"create_request":{"#), frame(2, br#""key":"YQ==","watch_id":9}}"#)].concat()).await;
    assert_eq!(next_text(&mut watch).await["result"]["watch_id"], "9");
    becomes(&server, "etcd_debugging_mvcc_watch_stream_total", 1.0).await;
    watch.send(frame(8, &1000u16.to_be_bytes())).await;
    if !is_reference() {
        assert_eq!(next_frame(&mut watch).await.0, 0x88, "closing is agreed to");
    }
    becomes(&server, "etcd_debugging_mvcc_watch_stream_total", 0.0).await;
}

#[tokio::test]
async fn a_websocket_has_its_token_from_its_protocol_or_a_cookie() {
    let (server, token) = with_users().await;
    for (header, may) in [
        (format!("Sec-WebSocket-Protocol: Bearer, {token}\r\n"), true),
        (format!("Cookie: a=b; token={token}\r\n"), true),
        (String::new(), false),
    ] {
        let (mut watch, head) = upgrade(&server, "/v3/watch", &header).await;
        assert_eq!(head.status, 101);
        for (key, permitted) in [("bWluZQ==", may), ("aw==", false)] {
            watch.send(frame(1, format!(r#"{{"create_request":{{"key":"{key}"}}}}"#).as_bytes())).await;
            let told = next_text(&mut watch).await;
            assert_eq!(told["result"]["canceled"] != true, permitted, "{header}{key}: {told}");
        }
    }
}

#[tokio::test]
async fn a_websocket_ends_when_its_client_goes_or_talks_nonsense() {
    let server = Server::start().await;
    // A text has to be UTF-8; the reference does not look.
    let no_text = (!is_reference()).then(|| Some(frame(1, b"\xff\xff")));
    for nonsense in [None, Some(vec![0xff; 64])].into_iter().chain(no_text) {
        let (mut watch, _) = upgrade(&server, "/v3/watch", "").await;
        watch.send(frame(1, br#"{"create_request":{"key":"Zm9v"}}"#)).await;
        next_text(&mut watch).await;
        if let Some(nonsense) = &nonsense {
            watch.send(nonsense).await;
            while watch.more().await {}
        }
        drop(watch);
        becomes(&server, "etcd_debugging_mvcc_watch_stream_total", 0.0).await;
    }
}

#[tokio::test]
async fn what_is_no_stream_answers_once_over_a_websocket() {
    if is_reference() {
        return; // It never answers.
    }
    let server = Server::start().await;
    let (mut socket, _) = upgrade(&server, "/v3/kv/put", "").await;
    socket.send(frame(1, br#"{"key":"Zm9v"}"#)).await;
    assert_eq!(next_text(&mut socket).await["header"]["revision"], "2");
    assert_eq!(next_frame(&mut socket).await.0, 0x88);
    for (path, message) in [("/v3/nothing", "Not Found"), ("/v3/kv/range", "etcdserver: key is not provided")] {
        let (mut socket, head) = upgrade(&server, path, "").await;
        assert_eq!(head.status, 101);
        socket.send(frame(1, b"{}")).await;
        assert_eq!(next_text(&mut socket).await["message"], message);
        assert_eq!(next_frame(&mut socket).await.0, 0x88);
    }
}

#[tokio::test]
async fn a_handshake_that_is_none_is_refused() {
    let server = Server::start().await;
    for (verb, headers, status) in [
        ("GET", "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: short\r\n", 400),
        ("GET", "Sec-WebSocket-Version: 12\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", 400),
        ("POST", "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", 405),
    ] {
        let mut connection = Connection::open(&server).await;
        let request = format!(
            "{verb} /v3/watch HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{headers}\r\n"
        );
        connection.send(request).await;
        let head = connection.head().await;
        assert_eq!((head.status, head.header("sec-websocket-version")), (status, Some("13")), "{verb} {headers}");
    }
}
