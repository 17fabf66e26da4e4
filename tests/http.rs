//! The endpoints beside gRPC on the same port, spoken to in HTTP/1.1. (etcd: operations guide, monitoring.)

mod server;

use server::{PATIENCE, Server};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

struct Answer {
    status: u16,
    head: String,
    body: String,
}

async fn get(server: &Server, path: &str) -> Answer {
    request(server, &format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", server.address)).await
}

async fn request(server: &Server, request: &str) -> Answer {
    let mut socket = TcpStream::connect(&server.address).await.unwrap();
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    tokio::time::timeout(PATIENCE, socket.read_to_end(&mut bytes)).await.expect("an answer").unwrap();
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.split(' ').nth(1).expect("a status line").parse().unwrap();
    let head = head.to_lowercase();
    let body = if head.contains("transfer-encoding: chunked") { unchunked(body) } else { body.to_owned() };
    Answer { status, head, body }
}

fn unchunked(mut rest: &str) -> String {
    let mut body = String::new();
    while let Some((size, tail)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).expect("a chunk's size");
        body.push_str(&tail[..size]);
        rest = tail[size..].trim_start_matches("\r\n");
    }
    body
}

fn metric(text: &str, name: &str) -> f64 {
    let line = text.lines().find(|line| line.split(' ').next() == Some(name));
    let line = line.unwrap_or_else(|| panic!("no {name} among the metrics"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn version_names_the_etcd_it_implements() {
    let server = Server::start().await;
    let answer = get(&server, "/version").await;
    assert_eq!(answer.status, 200);
    assert!(answer.head.contains("content-type: application/json"), "{}", answer.head);
    let version: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    assert!(version["etcdserver"].as_str().unwrap().starts_with("3.7."), "{version}");
    assert_eq!((version["etcdcluster"].as_str(), version["storage"].as_str()), (Some("3.7.0"), Some("3.7.0")));
}

#[tokio::test]
async fn health_is_well_and_says_so() {
    let server = Server::start().await;
    for path in ["/health", "/health?serializable=true"] {
        let answer = get(&server, path).await;
        assert_eq!((answer.status, &answer.body[..]), (200, r#"{"health":"true","reason":""}"#), "{path}");
    }
    for path in ["/livez", "/readyz"] {
        let answer = get(&server, path).await;
        assert_eq!((answer.status, &answer.body[..]), (200, "ok\n"), "{path}");
    }
    let answer = get(&server, "/readyz?verbose").await;
    assert_eq!(answer.status, 200);
    assert!(answer.body.contains("[+]linearizable_read ok\n"), "{}", answer.body);
}

#[tokio::test]
async fn an_alarm_makes_it_unwell() {
    use urd_client::etcdserverpb::{AlarmRequest, AlarmType, alarm_request::AlarmAction};
    let server = Server::start().await;
    let client = server.client().await;
    let raise = AlarmRequest {
        action: AlarmAction::Activate as i32,
        alarm: AlarmType::Nospace as i32,
        member_id: client.status().await.unwrap().header.unwrap().member_id,
    };
    client.call(&raise).await.unwrap();
    let answer = get(&server, "/health").await;
    assert_eq!((answer.status, &answer.body[..]), (503, "{\"health\":\"false\",\"reason\":\"ALARM NOSPACE\"}\n"));
    assert_eq!(get(&server, "/health?exclude=NOSPACE").await.status, 200);
}

#[tokio::test]
async fn metrics_count_what_happens() {
    let server = Server::start().await;
    let client = server.client().await;
    for i in 0..5 {
        client.put(format!("k{i}"), "v").await.unwrap();
    }
    client.delete("k0").await.unwrap();
    let answer = get(&server, "/metrics").await;
    assert_eq!(answer.status, 200);
    assert!(answer.head.contains("content-type: text/plain"), "{}", answer.head);
    assert_eq!(metric(&answer.body, "etcd_server_has_leader"), 1.0);
    assert_eq!(metric(&answer.body, "etcd_server_is_leader"), 1.0);
    assert_eq!(metric(&answer.body, "etcd_mvcc_put_total"), 5.0);
    assert_eq!(metric(&answer.body, "etcd_mvcc_delete_total"), 1.0);
    assert_eq!(metric(&answer.body, "etcd_debugging_mvcc_keys_total"), 4.0);
    assert!(metric(&answer.body, "process_resident_memory_bytes") > 1e6);
}

/// urd's own: etcd's level is what it was started with.
#[tokio::test]
async fn the_logs_level_can_be_changed_by_who_may() {
    use urd_client::etcdserverpb::*;
    let server = Server::start_with(&["--bcrypt-cost=4"]).await;
    if server::is_reference() {
        assert_eq!(get(&server, "/urd/log/level").await.status, 404);
        return;
    }
    let ask = async |method: &str, level: &str, token: &str| {
        let asked = format!(
            "{method} /urd/log/level?level={level} HTTP/1.1\r\nHost: x\r\nAuthorization: {token}\r\nConnection: close\r\n\r\n"
        );
        let answer = request(&server, &asked).await;
        (answer.status, answer.body)
    };
    let health_lines = || server.log().matches("/health OK").count();
    assert_eq!(ask("GET", "", "").await, (200, "{\"level\":\"info\"}\n".into()));
    get(&server, "/health").await;
    assert_eq!(health_lines(), 0);
    assert_eq!(ask("PUT", "debug", "").await, (200, "{\"level\":\"debug\"}\n".into()));
    get(&server, "/health").await;
    assert_eq!(health_lines(), 1);
    assert_eq!(ask("PUT", "error", "").await.0, 200);
    get(&server, "/health").await;
    assert_eq!(health_lines(), 1);
    assert_eq!(server.log().matches("the log's level was changed").count(), 2);
    assert_eq!(ask("PUT", "loud", "").await, (400, "unrecognized level: \"loud\"\n".into()));

    let client = server.client().await;
    for name in ["root", "ann"] {
        let add = AuthUserAddRequest { name: name.into(), password: "pw".into(), ..Default::default() };
        client.call(&add).await.unwrap();
    }
    client.call(&AuthRoleAddRequest { name: "root".into() }).await.unwrap();
    client.call(&AuthUserGrantRoleRequest { user: "root".into(), role: "root".into() }).await.unwrap();
    client.call(&AuthEnableRequest {}).await.unwrap();
    let token = async |name: &str| {
        client.call(&AuthenticateRequest { name: name.into(), password: "pw".into() }).await.unwrap().token
    };
    assert_eq!(ask("PUT", "info", "").await, (401, "etcdserver: invalid auth token\n".into()));
    assert_eq!(ask("GET", "", &token("ann").await).await, (403, "etcdserver: permission denied\n".into()));
    assert_eq!(ask("PUT", "info", &token("root").await).await, (200, "{\"level\":\"info\"}\n".into()));
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    let server = Server::start().await;
    assert_eq!(get(&server, "/nothing/here").await.status, 404);
    let wrong = "POST /health HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    assert_eq!(request(&server, wrong).await.status, 405);
    // What is no HTTP at all ends its own connection and nothing else.
    let mut socket = TcpStream::connect(&server.address).await.unwrap();
    socket.write_all(b"no HTTP at all\r\n\r\n").await.unwrap();
    let mut bytes = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, socket.read_to_end(&mut bytes)).await.expect("the connection is closed");
    assert_eq!(get(&server, "/version").await.status, 200);
}

/// Every name that a reference 3.7.3 server tells after the same, with its type; but for the Go runtime's.
#[tokio::test]
async fn every_metric_of_etcds_is_told() {
    use urd_client::{etcdserverpb::*, op};
    let server = Server::start().await;
    let client = server.client().await;
    client.put("k", "v").await.unwrap();
    client.get("k").await.unwrap();
    let txn = TxnRequest { success: vec![op::get("k"), op::put("k", "")], ..Default::default() };
    client.call(&txn).await.unwrap();
    client.call(&RangeRequest { key: "k".into(), revision: 99, ..Default::default() }).await.unwrap_err();
    let mut watcher = client.watch("k", "", 1).await.unwrap();
    watcher.next().await.unwrap();
    for path in ["/health", "/livez", "/readyz"] {
        assert_eq!(get(&server, path).await.status, 200, "{path}");
    }
    get(&server, "/metrics").await;
    let answer = get(&server, "/metrics").await;
    let types: std::collections::BTreeMap<&str, &str> =
        answer.body.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
    let list = include_str!("compatibility/etcd-3.7.3-metrics.txt");
    let mut told = 0;
    for line in list.lines() {
        let mut words = line.split(' ');
        let (name, kind) = (words.next().unwrap(), words.next().unwrap());
        if name.starts_with("go_") || name == "etcd_server_go_version" {
            continue;
        }
        assert_eq!(types.get(name), Some(&kind), "{name}");
        told += 1;
    }
    assert!(told > 95, "{told}");
    assert_eq!(metric(&answer.body, "promhttp_metric_handler_requests_total{code=\"200\"}"), 1.0);
    assert!(metric(&answer.body, "process_network_receive_bytes_total") > 0.0);
    let events = "etcd_debugging_server_watch_send_loop_watch_stream_duration_seconds_count";
    assert!(metric(&answer.body, events) >= 1.0);
}
