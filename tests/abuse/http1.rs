//! HTTP/1.1 by clients without manners: on the client listener, plain and within TLS, on that for metrics and on that for
//! members.

use std::io::{self, Write};

use urd_client::raw::RawConnection;

use super::{MIB, open, withstand};
use crate::{
    server::{PATIENCE, Server, is_reference, soon},
    ways,
};

/// What has come until the server closes, or until there are so many bytes.
fn read(raw: &mut RawConnection, enough: usize) -> String {
    let (mut text, mut buffer) = (Vec::new(), [0; 16 * 1024]);
    while text.len() < enough {
        match raw.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(len) => text.extend_from_slice(&buffer[..len]),
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// The status of the next answer, 0: there is none.
fn status(raw: &mut RawConnection) -> u16 {
    let text = read(raw, 12);
    text.get(9..12).and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

const GET: &[u8] = b"GET /health HTTP/1.1\r\nHost: x\r\n";
const POST: &[u8] = b"POST /v3/kv/range HTTP/1.1\r\nHost: x\r\n";

/// A request with that body, all of it.
fn post(path: &str, json: &[u8]) -> Vec<u8> {
    let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", json.len());
    [head.as_bytes(), json].concat()
}

#[tokio::test]
async fn heads_are_bounded_in_size_and_number_and_cost_what_was_sent() {
    let (server, ways) = ways::start_http1().await;
    withstand(&server, &ways[..3], "heads byte by byte", 24 * MIB, |way| {
        let mut held: Vec<RawConnection> = (0..100).map(|_| way.open()).collect();
        let head = [GET, b"X-Slow: and so on"].concat();
        for byte in head {
            held.iter_mut().for_each(|raw| raw.write(&[byte]).unwrap());
        }
        held
    })
    .await;
    let bombs: [(&str, Vec<u8>); 4] = [
        ("a header of 1 MiB", [GET, b"X: ", &vec![b'a'; 1 << 20]].concat()),
        ("a hundred thousand headers", [GET, &b"a: b\r\n".repeat(100_000)].concat()),
        ("a hundred and one headers", [GET, &b"a: b\r\n".repeat(100), b"\r\n"].concat()),
        ("a target of 1 MiB", [&b"GET /"[..], &vec![b'a'; 1 << 20]].concat()),
    ];
    for (name, bomb) in bombs {
        withstand(&server, &ways, name, 16 * MIB, move |way| {
            for _ in 0..20 {
                let mut raw = way.open();
                // It may be over before all of it is sent; what has been said then may be lost on the way.
                let whole = raw.write(&bomb).is_ok();
                let told = status(&mut raw);
                assert!(told == 431 || told == 0 && (!whole || bomb.len() > 1 << 17), "{name}: {told}");
                assert_eq!(read(&mut raw, 1 << 20).matches("HTTP/1.1").count(), 0, "{name}: it goes on");
            }
        })
        .await;
    }
}

#[tokio::test]
async fn bodies_are_bounded_however_they_are_cut() {
    let (server, ways) = ways::start_http1().await;
    let clients = &ways[..2];
    withstand(&server, clients, "half a body", 20 * 8 * MIB, |way| {
        (0..20)
            .map(|_| {
                let mut raw = way.open();
                raw.write(&[POST, b"Content-Length: 8000000\r\n\r\n", &vec![b' '; 4_000_000]].concat()).unwrap();
                raw
            })
            .collect::<Vec<_>>()
    })
    .await;
    let chunked = [POST, b"Transfer-Encoding: chunked\r\n\r\n"].concat();
    // Of each whether it is refused, or waited for what may still come.
    let cases: [(&str, Vec<u8>, u16); 6] = [
        (
            "beyond what a message may need",
            [POST, b"Content-Length: 90000000\r\n\r\n", &vec![b' '; 9 << 20]].concat(),
            429,
        ),
        ("the same in chunks of a byte", [&chunked[..], &b"1\r\n \r\n".repeat(9 << 20)].concat(), 429),
        ("extensions without end", [&chunked[..], b"1;", &vec![b'a'; 1 << 20]].concat(), 0),
        (
            "a little of them with each chunk",
            [&chunked[..], &b"1;aaaaaaaaaaaaaaaa\r\n \r\n".repeat(100_000)].concat(),
            0,
        ),
        ("trailers without end", [&chunked[..], b"0\r\n", &b"a: b\r\n".repeat(200_000)].concat(), 0),
        ("a chunk of 16 EiB", [&chunked[..], b"fffffffffffffff0\r\n", &vec![b' '; 9 << 20]].concat(), 429),
    ];
    for (name, body, wanted) in cases {
        withstand(&server, clients, name, 64 * MIB, move |way| {
            for _ in 0..2 {
                let mut raw = way.open();
                let whole = raw.write(&body).is_ok();
                let told = status(&mut raw);
                assert!(
                    told == wanted || told >= 400 && wanted == 0 || told == 0 && (wanted == 0 || !whole),
                    "{name}: {told}"
                );
            }
        })
        .await;
    }
}

#[tokio::test]
async fn requests_in_a_pipeline_are_answered_as_they_are_read() {
    let (server, ways) = ways::start_http1().await;
    const REQUESTS: usize = 2_000;
    let request = [GET, b"\r\n"].concat().repeat(REQUESTS);
    withstand(&server, &ways[..3], "pipelines that nobody reads", 16 * MIB, move |way| {
        let mut held: Vec<RawConnection> = (0..10).map(|_| way.open()).collect();
        held.iter_mut().for_each(|raw| raw.write(&request).unwrap());
        // And one that reads gets all.
        let raw = &mut held[0];
        let (mut answers, mut text) = (0, String::new());
        while answers < REQUESTS {
            let more = read(raw, 1);
            assert!(!more.is_empty(), "it ends after {answers}");
            text.push_str(&more);
            answers += text.matches(r#""reason":""}"#).count();
            let kept = text.rfind(r#""reason":""}"#).map_or(0, |at| at + 12);
            text.drain(..kept);
        }
        held
    })
    .await;
    withstand(&server, &ways, "connections that are kept and not used", 24 * MIB, |way| {
        (0..100)
            .map(|_| {
                let mut raw = way.open();
                raw.write(b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
                assert!(matches!(status(&mut raw), 200 | 404));
                raw
            })
            .collect::<Vec<_>>()
    })
    .await;
}

#[tokio::test]
async fn json_bombs_are_refused_or_passed_over() {
    let (server, ways) = ways::start_http1().await;
    let nested = |open: &str, close: &str, depth: usize| format!("{}{}", open.repeat(depth), close.repeat(depth));
    let key = r#""key":"Zm9v""#;
    // As etcd answers each, but for transactions, of which it takes a thousand levels more.
    let bombs: Vec<(&str, &str, Vec<u8>, u16)> = vec![
        ("arrays within arrays", "range", format!(r#"{{"x":{}}}"#, nested("[", "]", 100_000)).into(), 400),
        ("no end of arrays", "range", [br#"{"x":"#, &vec![b'['; 4 << 20][..]].concat(), 400),
        (
            "objects within objects",
            "range",
            format!("{}1{}", r#"{"x":"#.repeat(100_000), "}".repeat(100_000)).into(),
            400,
        ),
        (
            "transactions",
            "txn",
            nested(r#"{"success":[{"request_txn":"#, "}]}", 200).replacen("}", "{}}", 1).into(),
            400,
        ),
        (
            "a number of a million digits",
            "range",
            format!(r#"{{{key},"limit":{}}}"#, "1".repeat(1_000_000)).into(),
            400,
        ),
        ("an exponent", "range", format!(r#"{{{key},"limit":1e999999999}}"#).into(), 400),
        (
            "an exponent that is undone",
            "range",
            format!(r#"{{{key},"limit":1{}e-100000}}"#, "0".repeat(100_000)).into(),
            200,
        ),
        ("a name of 7 MiB", "range", format!(r#"{{"{}":1,{key}}}"#, "x".repeat(7 << 20)).into(), 200),
        ("one name 500,000 times", "range", format!(r#"{{{}{key}}}"#, r#""x":1,"#.repeat(500_000)).into(), 200),
        ("a key twice", "range", format!("{{{key},{key}}}").into(), 400),
        ("half a pair of surrogates", "range", br#"{"key":"\ud800"}"#.to_vec(), 400),
        ("half a pair in a name", "range", br#"{"\ud800":1}"#.to_vec(), 400),
        ("no UTF-8", "range", b"{\"x\":\"\xff\xfe\"}".to_vec(), 400),
    ];
    for (name, method, json, wanted) in bombs {
        let request = post(&format!("/v3/kv/{method}"), &json);
        withstand(&server, &ways[..1], name, 64 * MIB, move |way| {
            let mut held: Vec<RawConnection> = (0..4).map(|_| way.open()).collect();
            held.iter_mut().for_each(|raw| raw.write(&request).unwrap());
            held.iter_mut().for_each(|raw| assert_eq!(status(raw), wanted, "{name}"));
            held
        })
        .await;
    }
}

#[tokio::test]
async fn watches_of_the_gateway_that_nobody_reads_keep_a_place() {
    let (server, ways) = ways::start_http1().await;
    let writer = server.client().await;
    let before = open(&server);
    let request = post("/v3/watch", br#"{"create_request":{"key":"aw==","range_end":"AA=="}}"#);
    let held = tokio::task::spawn_blocking(move || {
        let watch = |at: usize| {
            let mut raw = ways[at % 2].open();
            raw.write(&request).unwrap();
            assert_eq!(status(&mut raw), 200);
            raw
        };
        (0..30).map(watch).collect::<Vec<_>>()
    });
    let held = soon(held).await.unwrap();
    let resident = server.resident_bytes();
    for key in 0..128 {
        soon(writer.put(format!("k{}", key % 7), vec![3u8; 512 * 1024])).await.unwrap();
    }
    let growth = server.resident_bytes().saturating_sub(resident);
    // As over gRPC; and of each the message that is being written as JSON.
    let bound = 30 * (urd::limits::WATCH_STREAM_BYTES as u64 + 2 * MIB) + urd::limits::LOG_RECENT_BYTES + 64 * MIB;
    println!("30 unread watches of 64 MiB of events: grew by {} KiB of {} allowed", growth / 1024, bound / 1024);
    assert!(growth <= bound, "{} MiB", growth / MIB);
    drop(held);
    let begin = std::time::Instant::now();
    while open(&server).requests != before.requests || open(&server).connections > before.connections + 1 {
        assert!(begin.elapsed() < PATIENCE, "{:?} is left", open(&server));
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// What follows each request is another, which a server that reads them otherwise would take for something else. Of each:
/// the statuses with which the reference answers until it closes or has answered both, and those that are wanted here, where
/// they are not the same.
#[tokio::test]
async fn requests_that_may_be_read_in_two_ways_are_refused() {
    let server = Server::start().await;
    let json = r#"{"key":"Zm9v"}"#;
    let chunks = &format!("e\r\n{json}\r\n0\r\n\r\n");
    let post = |head: &str, body: &str| format!("POST /v3/kv/range HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n{body}");
    let chunked = |body: &str| post("Transfer-Encoding: chunked", body);
    const BOTH: &[u16] = &[200, 200];
    // Unsupported is told as bad where hyper finds it first.
    let (bad, unknown): (&[u16], &[u16]) = (&[400], &[501]);
    let cases: Vec<(String, &[u16], &[u16])> = vec![
        (post("Content-Length: 14", json), BOTH, BOTH),
        (chunked(chunks), BOTH, BOTH),
        (post("Content-Length: 14\r\nContent-Length: 14", json), BOTH, BOTH),
        (chunked(&format!("e;a=b\r\n{json}\r\n0\r\n\r\n")), BOTH, BOTH),
        (post("Transfer-Encoding: CHUNKED", chunks), BOTH, BOTH),
        // Both lengths: etcd heeds the chunks and goes on, here the connection ends.
        (post("Content-Length: 4\r\nTransfer-Encoding: chunked", chunks), BOTH, &[200]),
        (post("Transfer-Encoding: chunked\r\nContent-Length: 4", chunks), BOTH, &[200]),
        (post("Content-Length: 14\r\nContent-Length: 15", json), bad, bad),
        (post("Content-Length: 14, 14", json), bad, bad),
        (post("Content-Length: +14", json), bad, bad),
        (post("Content-Length: -14", json), bad, bad),
        (post("Content-Length: 0xe", json), bad, bad),
        (post("Content-Length: 1 4", json), bad, bad),
        (post("Content-Length: ", ""), bad, bad),
        (post("Content-Length: 9223372036854775808", json), bad, bad),
        (post("Content-Length: 99999999999999999999999", json), bad, bad),
        (post("Transfer-Encoding: chunked, chunked", chunks), unknown, unknown),
        (post("Transfer-Encoding: gzip, chunked", chunks), unknown, unknown),
        (post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", chunks), unknown, unknown),
        (post("Transfer-Encoding: xchunked", chunks), unknown, bad),
        (post("Transfer-Encoding: chunked, identity", chunks), unknown, bad),
        (post("Transfer-Encoding: identity\r\nContent-Length: 14", json), unknown, bad),
        (post("Transfer-Encoding: \u{b}chunked", chunks), bad, bad),
        (post("Content-Length : 14", json), bad, bad),
        (post("Transfer-Encoding : chunked", chunks), bad, bad),
        (post("Content-Length: 14\r\nX: a\r\n b", json), BOTH, bad),
        (post("Transfer-Encoding:\r\n chunked", chunks), BOTH, bad),
        (post("X: a\rContent-Length: 3\r\nContent-Length: 14", json), bad, bad),
        (post("X: a\0b\r\nContent-Length: 14", json), bad, bad),
        (post("no colon\r\nContent-Length: 14", json), bad, bad),
        (post("Host: y\r\nContent-Length: 14", json), bad, bad),
        (post("Expect: 200-ok\r\nContent-Length: 14", json), &[417], &[417]),
        (chunked(&format!("e\n{json}\n0\n\n")), bad, bad),
        (chunked(&format!(" e\r\n{json}\r\n0\r\n\r\n")), bad, bad),
        (chunked(&format!("0xe\r\n{json}\r\n0\r\n\r\n")), bad, bad),
        (chunked(&format!("-e\r\n{json}\r\n0\r\n\r\n")), bad, bad),
        (chunked(&format!("e;a=\nb\r\n{json}\r\n0\r\n\r\n")), bad, bad),
        (chunked(&format!("ffffffffffffffff1\r\n{json}\r\n0\r\n\r\n")), bad, bad),
        // Zeros in front, which nobody reads as anything else.
        (chunked(&format!("00000000000000000e\r\n{json}\r\n0\r\n\r\n")), bad, BOTH),
        ("GET /version HTTP/1.1\r\nHost: a b\r\n\r\n".to_owned(), bad, bad),
        ("GET /version HTTP/1.1\r\n\r\n".to_owned(), bad, bad),
        ("CONNECT y:80 HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), &[404, 200], &[404, 200]),
        ("GET /version HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello".to_owned(), BOTH, BOTH),
    ];
    let address = server.address.clone();
    let asked = tokio::task::spawn_blocking(move || -> io::Result<()> {
        for (request, theirs, ours) in cases {
            let wanted = if is_reference() { theirs } else { ours };
            let mut socket = std::net::TcpStream::connect(&address)?;
            socket.set_read_timeout(Some(PATIENCE))?;
            // The last one says that it is: so the connection ends in any case.
            socket.write_all(
                format!("{request}GET /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes(),
            )?;
            let text = read(&mut RawConnection::over(socket), usize::MAX);
            let statuses: Vec<u16> = text
                .match_indices("HTTP/1.1 ")
                .map(|(at, name)| text[at + name.len()..][..3].parse().unwrap())
                .collect();
            assert_eq!(statuses, wanted, "{request:?}: {text}");
        }
        Ok(())
    });
    soon(asked).await.unwrap().unwrap();
}
