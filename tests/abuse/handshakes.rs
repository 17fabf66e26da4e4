//! TLS by clients that do not mean to get through the handshake, or to be done with it.

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::Arc,
};

use rcgen::{BasicConstraints, DnType, IsCa, SanType};
use rustls::{ClientConfig, ClientConnection, pki_types::ServerName};

use super::{MIB, RANGE, prefixed, withstand};
use crate::{
    server::{PATIENCE, soon},
    ways::{Authority, Way, secured, start_guarded},
};

/// What such a client begins with.
fn client_hello(config: &Arc<ClientConfig>) -> Vec<u8> {
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let mut bytes = Vec::new();
    ClientConnection::new(config.clone(), name).unwrap().write_tls(&mut bytes).unwrap();
    bytes
}

fn dial(way: &Way) -> TcpStream {
    let socket = TcpStream::connect(&way.address).expect("the server takes a connection");
    socket.set_nodelay(true).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// The server closes, or has reset what it did not want to read.
fn ends(socket: &mut TcpStream) {
    let mut rest = Vec::new();
    match socket.read_to_end(&mut rest) {
        Ok(_) => {}
        Err(cause) => assert_eq!(cause.kind(), std::io::ErrorKind::ConnectionReset),
    }
}

/// Three hundred connections, on each of which that has been sent.
fn begin(way: &Way, bytes: &[u8]) -> Vec<TcpStream> {
    let one = |_| {
        let mut socket = dial(way);
        socket.write_all(bytes).unwrap();
        socket
    };
    (0..300).map(one).collect()
}

#[tokio::test]
async fn handshakes_that_come_to_nothing_cost_little_each() {
    let authority = Authority::new();
    let (server, encrypted) = start_guarded(&authority, &[]).await;
    let config = authority.client(None, "h2");
    let hello = client_hello(&config);
    let ways = [Way::tls("encrypted", &encrypted, config.clone())];
    let (half, bytes, whole) = (hello[..hello.len() / 2].to_vec(), hello.clone(), hello);
    withstand(&server, &ways, "half a ClientHello", 16 * MIB, move |way| begin(way, &half)).await;
    withstand(&server, &ways, "a ClientHello byte by byte", 16 * MIB, move |way| {
        let mut held: Vec<TcpStream> = (0..50).map(|_| dial(way)).collect();
        for byte in &bytes[..bytes.len() - 1] {
            held.iter_mut().for_each(|socket| socket.write_all(&[*byte]).unwrap());
        }
        held
    })
    .await;
    withstand(&server, &ways, "answers that nobody takes up", 32 * MIB, move |way| begin(way, &whole)).await;
    withstand(&server, &ways, "noise behind a record's head", 16 * MIB, |way| {
        for length in [5u16, 300, 16_384, 65_535] {
            for _ in 0..25 {
                let mut socket = dial(way);
                // It may be over before all of it is sent.
                let _ = socket.write_all(&[&[22, 3, 1][..], &length.to_be_bytes(), &[0x5a; 70_000]].concat());
                ends(&mut socket);
            }
        }
    })
    .await;
    // A ClientHello that says it has 16 MiB, in records that are good: let in up to 64 KiB.
    withstand(&server, &ways, "a ClientHello without end", 16 * MIB, |way| {
        for _ in 0..50 {
            let mut socket = dial(way);
            let mut first = vec![22, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff];
            first.resize(5 + 0x4000, 0);
            let mut sent = socket.write_all(&first);
            for _ in 0..1000 {
                sent = sent.and_then(|()| socket.write_all(&[&[22, 3, 1, 0x40, 0][..], &[0; 0x4000]].concat()));
            }
            assert!(sent.is_err(), "16 MiB of it were taken");
        }
    })
    .await;
    withstand(&server, &ways, "handshakes in a row", 32 * MIB, |way| {
        (0..300).for_each(|_| drop(way.open()));
    })
    .await;
}

/// Each new key costs the server a computation, and an answer where one is demanded: so many in a row, and no more.
#[tokio::test]
async fn keys_are_not_updated_without_end() {
    let authority = Authority::new();
    let (server, encrypted) = start_guarded(&authority, &[]).await;
    let config = authority.client(None, "h2");
    let ways = [Way::tls("encrypted", &encrypted, config.clone())];
    withstand(&server, &ways, "key updates", 16 * MIB, move |way| {
        for _ in 0..10 {
            let mut stream = secured(&way.address, &config).unwrap();
            // What is sent with the new keys may be lost with the connection, so that it takes a while to be noticed.
            let ended = (0..100_000).any(|_| {
                let updated = stream.conn.refresh_traffic_keys();
                updated.is_err() || stream.conn.write_tls(&mut stream.sock).is_err()
            });
            assert!(ended, "all of them were borne");
        }
    })
    .await;
}

#[tokio::test]
async fn chains_of_certificates_are_looked_at_within_bounds() {
    let authority = Authority::new();
    let trusted = format!("--trusted-ca-file={}", authority.dir.path().join("ca.pem").display());
    let (server, encrypted) = start_guarded(&authority, &["--client-cert-auth", &trusted]).await;
    // Authorities that have signed each other in every way there is: each is called the same, and so may be of any.
    let cross = |count: usize| -> Vec<_> {
        (0..count)
            .map(|_| {
                let (signed, _) = authority.sign("an authority", |params| {
                    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
                    params.subject_alt_names = Vec::new();
                });
                signed.der().clone()
            })
            .collect()
    };
    let other = Authority::new();
    let (foreign, foreign_key) = other.sign("a stranger", |_| {});
    let (own, own_key) = authority.sign("many names", |params| {
        let name = |at: usize| SanType::DnsName(format!("host-{at}.example").try_into().unwrap());
        params.subject_alt_names = (0..2_000).map(name).collect();
    });
    let (friend, friend_key) =
        authority.sign("a friend", |params| params.distinguished_name.push(DnType::OrganizationName, "x"));
    let chain = |first: &rcgen::Certificate, more: usize| [vec![first.der().clone()], cross(more)].concat();
    let friendly = authority.client(Some((chain(&friend, 0), friend_key)), "h2");
    let cases = [
        ("a chain of a hundred", authority.client(Some((chain(&foreign, 100), foreign_key)), "h2"), false),
        ("two thousand names", authority.client(Some((chain(&own, 0), own_key)), "h2"), true),
        (
            "a chain of 64 KiB",
            {
                let (foreign, key) = other.sign("another stranger", |_| {});
                authority.client(Some((chain(&foreign, 300), key)), "h2")
            },
            false,
        ),
    ];
    for (name, config, is_let_in) in cases {
        let friendly = friendly.clone();
        let ways = [Way::tls("encrypted", &encrypted, config)];
        withstand(&server, &ways, name, 32 * MIB, move |way| {
            for _ in 0..20 {
                assert_eq!(serves(way), is_let_in, "{name}");
            }
            assert!(serves(&Way::tls("encrypted", &way.address, friendly)));
        })
        .await;
    }
}

/// Whether a call is answered. Who is not let in finds out after its own half of the handshake.
fn serves(way: &Way) -> bool {
    let mut raw = way.open();
    let mut call = || {
        raw.hello()?;
        raw.open_call(1, RANGE, &[])?;
        raw.frame(0, 1, 1, &prefixed(b"\x0a\x04well"))?;
        raw.read_until(0)
    };
    call().is_ok_and(|answer| answer.is_some())
}

/// Ten seconds to say what is spoken, ten for a handshake, and ten more to say what is spoken within.
#[tokio::test]
async fn who_says_too_little_is_cut_off() {
    let authority = Authority::new();
    let metrics = crate::server::free_address();
    let (server, encrypted) = start_guarded(&authority, &[&format!("--listen-metrics-urls=http://{metrics}")]).await;
    let config = authority.client(None, "h2");
    let hello = client_hello(&config);
    let said: [(&str, &[u8]); 7] = [
        (&server.address, b""),
        (&server.address, b"PRI * HTTP/2.0"),
        (&server.address, b"GE"),
        (&encrypted, b""),
        (&encrypted, &hello[..1]),
        (&encrypted, &hello[..hello.len() - 1]),
        (&metrics, b"G"),
    ];
    let mut held: Vec<TcpStream> = said
        .iter()
        .map(|(address, bytes)| {
            let mut socket = dial(&Way::plain("plain", address));
            socket.write_all(bytes).unwrap();
            socket
        })
        .collect();
    let mut shaken = secured(&encrypted, &config).unwrap();
    // Nor does it help to go on, as long as it comes to nothing.
    let mut slow = dial(&Way::plain("plain", &encrypted));
    let dripping = std::thread::spawn(move || {
        let begin = std::time::Instant::now();
        let cut = hello.iter().any(|byte| {
            std::thread::sleep(std::time::Duration::from_millis(100));
            slow.write_all(&[*byte]).is_err() || begin.elapsed() > PATIENCE
        });
        assert!(cut && begin.elapsed() < PATIENCE, "a handshake of {} bytes a tenth of a second each", hello.len());
    });
    let ending = tokio::task::spawn_blocking(move || {
        held.iter_mut().for_each(ends);
        let _ = shaken.read_to_end(&mut Vec::new());
        dripping.join().unwrap();
    });
    soon(ending).await.unwrap();
    assert_eq!(soon(server.client().await.get("k")).await.unwrap().count, 0);
}
