//! Batches of UDP datagrams over the loopback interface.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;

use sys::datagrams::{BATCH, Ends, Outgoing, dropped, receive, report_local_addresses, send};

fn bound(address: &str) -> UdpSocket {
    UdpSocket::bind(address).expect("a socket")
}

#[test]
fn a_datagram_is_answered_from_the_address_that_it_was_sent_to() {
    for (listen, ask) in
        [("0.0.0.0:0", "127.0.0.2"), ("[::]:0", "127.0.0.3"), ("[::]:0", "::1"), ("127.0.0.4:0", "127.0.0.4")]
    {
        let server = bound(listen);
        report_local_addresses(server.as_fd()).expect("an option of UDP sockets");
        let asked =
            SocketAddr::new(ask.parse().expect("an address"), server.local_addr().expect("bound").port());
        let client = bound(if asked.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" });
        for text in [&b"one"[..], b"", b"too long for it"] {
            client.send_to(text, asked).expect("sent");
        }
        let (mut buffers, mut received) = ([[0; 8]; 8], Vec::new());
        receive(server.as_fd(), &mut buffers, &mut received).expect("loopback delivers at once");
        let got: Vec<_> = received.iter().map(|one| (one.len, one.is_whole)).collect();
        assert_eq!(got, [(3, true), (0, true), (8, false)], "{listen}");
        assert_eq!(&buffers[0][..3], b"one");
        for one in &received {
            assert_eq!(one.ends.remote.ip().to_canonical(), client.local_addr().expect("bound").ip());
            assert_eq!(one.ends.local.map(|ip| ip.to_canonical()), Some(asked.ip()), "{listen}");
        }
        let answers =
            received.iter().map(|one| Outgoing { ends: one.ends, bytes: b"yes" }).collect::<Vec<_>>();
        assert_eq!(send(server.as_fd(), &answers).expect("sent"), 3);
        let mut answer = [0; 8];
        assert_eq!(client.recv_from(&mut answer).expect("an answer"), (3, asked));
    }
}

#[test]
fn receiving_from_an_empty_queue_returns_at_once() {
    let error =
        receive(bound("127.0.0.1:0").as_fd(), &mut [[0; 8]], &mut Vec::new()).expect_err("nothing came");
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn one_call_receives_at_most_one_datagram_for_each_buffer() {
    let (server, client) = (bound("127.0.0.1:0"), bound("127.0.0.1:0"));
    for _ in 0..BATCH + 3 {
        client.send_to(b"x", server.local_addr().expect("bound")).expect("sent");
    }
    let (mut buffers, mut received) = (vec![[0; 8]; BATCH + 10], Vec::new());
    for expected in [BATCH, 3] {
        receive(server.as_fd(), &mut buffers, &mut received).expect("loopback delivers at once");
        assert_eq!(received.len(), expected);
        assert!(received.iter().all(|one| one.ends.local.is_none()), "nobody asked for it");
    }
}

#[test]
fn a_datagram_that_cannot_be_sent_stops_only_the_later_ones() {
    let (server, client) = (bound("127.0.0.1:0"), bound("127.0.0.1:0"));
    let to = |remote| Outgoing { ends: Ends { remote, local: None }, bytes: b"x" };
    let good = to(client.local_addr().expect("bound"));
    let bad = to("127.0.0.1:0".parse().expect("an address"));
    assert_eq!(send(server.as_fd(), &[good, bad, good]).expect("one went"), 1);
    assert!(send(server.as_fd(), &[bad, good]).is_err());
}

#[test]
fn datagrams_that_the_kernel_drops_are_counted() {
    let (server, client) = (bound("127.0.0.1:0"), bound("127.0.0.1:0"));
    assert_eq!(dropped(server.as_fd()).expect("a kernel since 4.12"), 0);
    let mut sent = 0;
    while dropped(server.as_fd()).expect("a kernel since 4.12") == 0 && sent < 1_000_000 {
        client.send_to(b"x", server.local_addr().expect("bound")).expect("sent");
        sent += 1;
    }
    assert_eq!(dropped(server.as_fd()).expect("a kernel since 4.12"), 1, "after {sent}");
}
