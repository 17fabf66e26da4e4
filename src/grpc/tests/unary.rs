//! Unary calls: framing, heads, compression, statuses.

use std::io::Write;

use super::*;
use crate::error::Code;

#[test]
fn a_call_is_answered_with_headers_message_and_status() {
    run(async {
        let server = Server::new();
        let client = server.client().await;
        let reply = call(&client, request("/test.Echo/Echo"), &[prefixed(0, b"hello")]).await;
        assert_eq!(reply.http, 200);
        assert_eq!(reply.headers["content-type"], "application/grpc");
        assert_eq!(reply.headers.len(), 1);
        assert_eq!(reply.messages(), ["hello"]);
        assert_eq!(reply.status(), ("0", ""));
        let counters = &server.settings.counters;
        assert_eq!(counters.methods[0].started.get(), 1);
        assert_eq!(server.handled(0, Code::Ok), 1);
        assert_eq!((counters.client_received_bytes.get(), counters.client_sent_bytes.get()), (5, 5));
        assert_eq!(counters.requests_active.get(), 0);
    });
}

#[test]
fn an_answer_that_is_waited_for_comes_when_it_is_there() {
    run(async {
        let server = Server::new();
        let client = server.client().await;
        let mut reply = Box::pin(async { call(&client, request("/test.Echo/Late"), &[prefixed(0, b"x")]).await });
        assert!(!is_ready(&mut reply).await);
        until(|| server.service.messages.get() == 1).await;
        server.service.gate.open();
        assert_eq!(reply.await.messages(), ["x"]);
    });
}

#[test]
fn an_error_is_a_response_of_headers_only() {
    run(async {
        let server = Server::new();
        let client = server.client().await;
        let reply = call(&client, request("/test.Echo/Fail"), &[prefixed(0, b"")]).await;
        assert_eq!(reply.status(), ("14", "etcdserver: no leader"));
        assert!(reply.trailers.is_none() && reply.body.is_empty());
        assert_eq!(reply.http, 200);
        assert_eq!(server.handled(3, Code::Unavailable), 1);
    });
}

#[test]
fn a_message_may_be_cut_into_frames_anywhere() {
    run(async {
        let server = Server::new();
        let client = server.client().await;
        let message = prefixed(0, b"a message of some length");
        for at in 1..message.len() {
            let pieces = [message.slice(..at), message.slice(at..)];
            let reply = call(&client, request("/test.Echo/Echo"), &pieces).await;
            assert_eq!(reply.body, message, "cut at {at}");
        }
        let bytes: Vec<Bytes> = (0..message.len()).map(|at| message.slice(at..at + 1)).collect();
        assert_eq!(call(&client, request("/test.Echo/Echo"), &bytes).await.body, message);
        let empty_last = [message.clone(), Bytes::new()];
        assert_eq!(call(&client, request("/test.Echo/Echo"), &empty_last).await.body, message);
    });
}

#[test]
fn a_message_larger_than_the_window_arrives() {
    run(async {
        let server = Server::new();
        let client = server.client().await;
        let largest = server.settings.max_message_bytes();
        assert!(largest > crate::limits::GRPC_STREAM_WINDOW_BYTES as usize);
        let message = prefixed(0, &vec![9; largest]);
        let reply = call(&client, request("/test.Echo/Echo"), std::slice::from_ref(&message)).await;
        assert!(reply.body == message);
    });
}

#[test]
fn a_message_too_large_is_refused_by_its_length_alone() {
    run(async {
        let server = Server::new();
        let client = server.client().await;
        let head = Bytes::from_static(&[0, 0, 0x20, 0, 1]);
        let reply = call(&client, request("/test.Echo/Echo"), &[head]).await;
        let text = "grpc: received message larger than max (2097153 vs. 2097152)";
        assert_eq!(reply.status(), ("8", text));
        assert_eq!(call(&client, request("/test.Echo/Echo"), &[prefixed(0, b"on")]).await.messages(), ["on"]);
    });
}

fn gzipped(message: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(message).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn a_compressed_message_is_taken_and_answered_compressed() {
    run(async {
        let server = Server::new();
        let client = server.client().await;
        let gzip = || request("/test.Echo/Echo").header("grpc-encoding", "gzip");
        let reply = call(&client, gzip(), &[prefixed(1, &gzipped(b"hello"))]).await;
        assert_eq!(reply.headers["grpc-encoding"], "gzip");
        assert_eq!(reply.body[0], 1);
        assert_eq!(super::super::encoding::decompress(&reply.body[5..], 5).unwrap(), "hello");
        assert_eq!(server.settings.counters.client_sent_bytes.get(), 5);
        // A message may be left as it is.
        assert_eq!(call(&client, gzip(), &[prefixed(0, b"plain")]).await.status().0, "0");
    });
}

#[test]
fn a_bomb_is_refused_before_it_has_grown() {
    run(async {
        let server = Server::new();
        let client = server.client().await;
        let bomb = prefixed(1, &gzipped(&vec![0; 64 << 20]));
        let gzip = request("/test.Echo/Echo").header("grpc-encoding", "gzip");
        let reply = call(&client, gzip, &[bomb]).await;
        let text = "grpc: received message after decompression larger than max 2097152";
        assert_eq!(reply.status(), ("8", text));
    });
}

#[test]
fn bad_messages_are_refused_in_grpc_gos_words() {
    run(async {
        let server = Server::new();
        let client = server.client().await;
        let cases: [(&'static [u8], &str, &str); 7] = [
            (b"\x01\0\0\0\x01a", "13", "grpc: compressed flag set with identity or empty encoding"),
            (b"\x02\0\0\0\x01a", "13", "grpc: received unexpected payload format 2"),
            (b"\0\0\0\0\x02a", "2", "unexpected EOF"),
            (b"\0\0\0\0\x02", "2", "unexpected EOF"),
            (b"\0\0", "2", "EOF"),
            (b"", "2", "EOF"),
            // What follows the one message is not looked at.
            (b"\0\0\0\0\x01a\x07", "0", ""),
        ];
        for (body, code, text) in cases {
            let reply = call(&client, request("/test.Echo/Echo"), &[Bytes::from_static(body)]).await;
            assert_eq!(reply.status(), (code, text), "{body:?}");
        }
    });
}

#[test]
fn heads_that_are_not_grpc_are_refused_as_grpc_go_does() {
    run(async {
        let server = Server::new();
        let client = server.client().await;
        let bare = |path: &str| Request::post(format!("http://localhost{path}"));
        let echo = || bare("/test.Echo/Echo");
        let body = [prefixed(0, b"x")];
        let cases = [
            (echo(), 415, "3", r#"invalid gRPC request content-type """#),
            (
                echo().header("content-type", "application/grpc-web"),
                415,
                "3",
                r#"invalid gRPC request content-type "application/grpc-web""#,
            ),
            (
                request("/test.Echo/Echo").method("GET"),
                405,
                "13",
                r#"Received a HEADERS frame with :method "GET" which should be POST"#,
            ),
            (
                request("/test.Echo/Echo").header("grpc-timeout", "1x"),
                400,
                "13",
                r#"malformed grpc-timeout: transport: timeout unit is not recognized: "1x""#,
            ),
            (request("/test.Echo/Echo").header("grpc-timeout", "0S"), 200, "4", "context deadline exceeded"),
            (request("/test.Echo/Echo").header("grpc-timeout", "1n"), 200, "4", "context deadline exceeded"),
            (request("/x"), 200, "12", r#"malformed method name: "/x""#),
            (request("/"), 200, "12", r#"malformed method name: "/""#),
            (request("/a.B/C"), 200, "12", "unknown service a.B"),
            (request("/a/b/c"), 200, "12", "unknown service a/b"),
            (request("/test.Echo/Nope"), 200, "12", "unknown method Nope for service test.Echo"),
            (request("/test.Echo/Echo?a=b"), 200, "12", "unknown method Echo?a=b for service test.Echo"),
            (
                request("/test.Echo/Echo").header("host", "a").header("host", "b"),
                400,
                "13",
                "num values of :authority: 1, num values of host: 2, both must only have 1 value as per HTTP/2 spec",
            ),
        ];
        for (request, http, code, text) in cases {
            let reply = call(&client, request, &body).await;
            assert_eq!((reply.http, reply.status()), (http, (code, text)));
            assert_eq!(reply.headers["content-type"], "application/grpc");
        }
        assert_eq!(server.service.messages.get(), 0);
    });
}

/// A status may be longer than a frame.
#[test]
fn a_long_refusal_is_told_to_its_end() {
    run(async {
        let server = Server::new();
        let client = server.client().await;
        let path = format!("/test.Echo/{}", "n".repeat(40_000));
        let reply = call(&client, request(&path), &[prefixed(0, b"x")]).await;
        let text = format!("unknown method {} for service test.Echo", &path[11..]);
        assert_eq!(reply.status(), ("12", &text[..]));
        assert_eq!(call(&client, request("/test.Echo/Echo"), &[prefixed(0, b"on")]).await.messages(), ["on"]);
    });
}

#[test]
fn an_unknown_compression_is_refused_with_those_that_are_known() {
    run(async {
        let server = Server::new();
        let client = server.client().await;
        let snappy = request("/test.Echo/Echo").header("grpc-encoding", "snappy");
        let reply = call(&client, snappy, &[prefixed(0, b"x")]).await;
        assert_eq!(reply.status(), ("12", r#"grpc: Decompressor is not installed for grpc-encoding "snappy""#));
        assert_eq!(reply.headers["grpc-accept-encoding"], "gzip,identity");
    });
}

#[test]
fn the_subtype_of_the_content_type_comes_back() {
    run(async {
        let server = Server::new();
        let client = server.client().await;
        for (sent, answered) in [
            ("application/grpc+proto", "application/grpc+proto"),
            ("application/grpc;proto", "application/grpc+proto"),
            ("application/grpc+", "application/grpc"),
        ] {
            let request = Request::post("http://localhost/test.Echo/Echo").header("content-type", sent);
            let reply = call(&client, request, &[prefixed(0, b"x")]).await;
            assert_eq!(reply.headers["content-type"], answered);
            assert_eq!(reply.status().0, "0");
        }
    });
}

#[test]
fn metadata_reaches_the_handler_as_it_was_sent() {
    run(async {
        let server = Server::new();
        let client = server.client().await;
        let sent = request("/test.Echo/Echo")
            .header("token", "abc.1")
            .header("trace-bin", "AAECA/8")
            .header("hasleader", "true")
            .header("raw", http::HeaderValue::from_bytes(b"\xff\xfe").unwrap());
        call(&client, sent, &[prefixed(0, b"x")]).await;
        let metadata = server.service.metadata.take();
        assert_eq!(metadata.get("token"), Some(&b"abc.1"[..]));
        assert_eq!(metadata.get("trace-bin"), Some(&b"AAECA/8"[..]));
        assert_eq!(metadata.get("hasleader"), Some(&b"true"[..]));
        assert_eq!(metadata.get("raw"), Some(&b"\xff\xfe"[..]));
        assert_eq!(metadata.get("te"), None, "the protocol's own");
    });
}

#[test]
fn an_answer_that_does_not_fit_the_window_waits_for_its_reader() {
    run(async {
        let server = Server::new();
        let client = server.client().await;
        let body = [prefixed(0, &vec![3; 1 << 20])];
        let mut client = client.ready().await.unwrap();
        let (response, mut send) = client.send_request(request("/test.Echo/Echo").body(()).unwrap(), false).unwrap();
        send.send_data(body[0].clone(), true).unwrap();
        let mut response = response.await.unwrap().into_body();
        let first = response.data().await.unwrap().unwrap();
        settle().await;
        assert_eq!(
            server.settings.counters.requests_active.get(),
            0,
            "nothing waits for a slow reader of one answer but its stream"
        );
        let mut taken = first.len();
        response.flow_control().release_capacity(first.len()).unwrap();
        while let Some(piece) = response.data().await {
            let piece = piece.unwrap();
            taken += piece.len();
            response.flow_control().release_capacity(piece.len()).unwrap();
        }
        assert_eq!(taken, body[0].len());
        assert_eq!(response.trailers().await.unwrap().unwrap()["grpc-status"], "0");
    });
}
