use std::{collections::VecDeque, rc::Rc};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::net::ForHyper;
use crate::runtime::{
    executors::run_one,
    socket::{Bound, Socket},
    spawn, spawn_with_handle,
};

/// Gives its parts one a read, then ends.
struct Parts(VecDeque<Vec<u8>>);

impl AsyncRead for Parts {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(mut part) = self.0.pop_front() {
            let rest = part.split_off(part.len().min(buffer.remaining()));
            buffer.put_slice(&part);
            if !rest.is_empty() {
                self.0.push_front(rest);
            }
        }
        Poll::Ready(Ok(()))
    }
}

fn sniffed(parts: Vec<Vec<u8>>) -> Result<(Protocol, Vec<u8>), SniffError> {
    run_one(move || async move {
        let (protocol, mut io) = sniff(Parts(parts.into())).await?;
        assert!(io.len <= PREFACE.len());
        let mut all = Vec::new();
        io.read_to_end(&mut all).await.unwrap();
        Ok((protocol, all))
    })
    .unwrap()
}

fn in_parts_of(bytes: &[u8], size: usize) -> Vec<Vec<u8>> {
    bytes.chunks(size).map(<[u8]>::to_vec).collect()
}

#[test]
fn each_protocol_is_told_however_it_is_cut_and_no_byte_is_lost() {
    let h2 = [&PREFACE[..], &[0, 0, 0, 4, 0, 0, 0, 0, 0], b"more"].concat();
    let requests: [(&[u8], Protocol); 8] = [
        (&h2, Protocol::Http2),
        (b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n", Protocol::Http1),
        (b"PUT / HTTP/1.1\r\n\r\n", Protocol::Http1),
        (b"POST /v3/kv/put HTTP/1.1\r\n\r\n{}", Protocol::Http1),
        (b"PRI / HTTP/1.1\r\n\r\n", Protocol::Http1),
        // Its method and target are sound; what follows them is for the parser to refuse.
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r ", Protocol::Http1),
        (b"M-SEARCH * HTTP/1.1\r\n\r\n", Protocol::Http1),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", Protocol::Tls),
    ];
    for (bytes, protocol) in requests {
        for size in 1..=bytes.len() {
            let (told, all) = sniffed(in_parts_of(bytes, size)).unwrap();
            assert_eq!(told, protocol, "{size}");
            assert_eq!(all, bytes, "{size}");
        }
    }
}

#[test]
fn what_is_neither_is_refused() {
    let garbage: [&[u8]; 6] = [
        b"\x16\x02\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\r\nGET / HTTP/1.1\r\n",
        b" / HTTP/1.1\r\n",
        b"GARBAGE\r\n",
        b"GET  HTTP/1.1\r\n",
        b"AMETHODLONGERTHANANYTHATIS / HTTP/1.1\r\n",
    ];
    for bytes in garbage {
        for size in [1, 2, 5, bytes.len()] {
            let told = sniffed(in_parts_of(bytes, size));
            assert!(matches!(told, Err(SniffError::Neither)), "{bytes:?}: {told:?}");
        }
    }
}

#[test]
fn a_connection_that_ends_early_is_told_apart() {
    for bytes in [&b""[..], b"PRI * HT", b"GE"] {
        assert!(matches!(sniffed(vec![bytes.to_vec()]), Err(SniffError::Ended)), "{bytes:?}");
    }
}

/// No continuation changes what was judged: how a connection's bytes are cut does not matter.
#[test]
fn a_judgement_does_not_depend_on_what_follows() {
    let mut judged = 0;
    for prefix in [&b""[..], b"P", b"PRI", b"PRI ", b"GET", b"GET ", &PREFACE[..22]] {
        for byte in 0..=255u8 {
            let head = [prefix, &[byte]].concat();
            let verdict = judge(&head);
            if verdict == Verdict::Unknown {
                continue;
            }
            judged += 1;
            for next in 0..=255u8 {
                assert_eq!(judge(&[&head[..], &[next]].concat()), verdict, "{head:?}, {next}");
            }
        }
    }
    assert!(judged > 1000, "{judged}");
}

#[test]
fn a_silent_connection_is_given_up() {
    struct Silent;
    impl AsyncRead for Silent {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }
    let told = run_one(|| async { sniff_within(Duration::from_millis(5), Silent).await.map(|_| ()) }).unwrap();
    assert!(matches!(told, Err(SniffError::Silent)));
}

async fn connected() -> (Socket, Socket) {
    let listening = Bound::inet("127.0.0.1:0".parse().unwrap(), 16, false).unwrap().adopt().unwrap();
    let client = Socket::connect(listening.local().clone(), Rc::default()).await.unwrap();
    (Socket::new(listening.accept().await.unwrap(), Rc::default()).unwrap(), client)
}

/// h2 on both ends of a real socket, the server's end sniffed first.
#[test]
fn h2_runs_on_a_sniffed_socket() {
    run_one(|| async {
        let (server, client) = connected().await;
        spawn(async move {
            let (protocol, io) = sniff(server).await.unwrap();
            assert_eq!(protocol, Protocol::Http2);
            let mut connection = h2::server::handshake(io).await.unwrap();
            while let Some(request) = connection.accept().await {
                let (request, mut respond) = request.unwrap();
                assert_eq!(request.uri().path(), "/path");
                let mut body = respond.send_response(http::Response::new(()), false).unwrap();
                body.send_data(bytes::Bytes::from(vec![7u8; 40_000]), true).unwrap();
            }
        });
        let (mut requests, connection) = h2::client::handshake(client).await.unwrap();
        spawn(async move { connection.await.unwrap() });
        let request = http::Request::get("http://host/path").body(()).unwrap();
        let (response, _) = requests.send_request(request, true).unwrap();
        let mut body = response.await.unwrap().into_body();
        let mut received = 0;
        while let Some(data) = body.data().await {
            let data = data.unwrap();
            assert!(data.iter().all(|&byte| byte == 7));
            received += data.len();
            body.flow_control().release_capacity(data.len()).unwrap();
        }
        assert_eq!(received, 40_000);
    })
    .unwrap();
}

/// hyper's HTTP/1 server on a sniffed socket.
#[test]
fn hyper_runs_on_a_sniffed_socket() {
    run_one(|| async {
        let (server, mut client) = connected().await;
        let serving = spawn_with_handle(async move {
            let (protocol, io) = sniff(server).await.unwrap();
            assert_eq!(protocol, Protocol::Http1);
            let service = hyper::service::service_fn(|request: http::Request<hyper::body::Incoming>| async move {
                let path = request.uri().path().to_owned();
                Ok::<_, std::convert::Infallible>(http::Response::new(http_body_util::Full::<bytes::Bytes>::from(path)))
            });
            hyper::server::conn::http1::Builder::new().serve_connection(ForHyper(io), service).await
        });
        client.write_all(b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.ends_with("\r\n\r\n/health"), "{answer}");
        serving.await.unwrap();
    })
    .unwrap();
}
