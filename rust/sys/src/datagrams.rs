//! UDP sockets with many datagrams in one system call, each with its local address.
//!
//! `nix` cannot reuse the headers of such a call, because it loses the room for control messages. It sends one batch
//! with one set of control messages. `quinn-udp` sends datagrams one by one, and lets the kernel join received ones
//! before they are counted.

use std::io;
use std::mem::{offset_of, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

/// Maximum datagrams of one call.
pub const BATCH: usize = 64;

/// The addresses of a datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ends {
    /// The remote address.
    pub remote: SocketAddr,
    /// The local address. Received: `None` if the kernel did not report it. To send: `None` lets the kernel choose.
    pub local: Option<IpAddr>,
}

/// A received datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Received {
    /// Its addresses.
    pub ends: Ends,
    /// Number of its bytes in its buffer.
    pub len: usize,
    /// Whether these are all of its bytes.
    pub is_whole: bool,
}

/// A datagram to send.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// Its addresses.
    pub ends: Ends,
    /// Its contents.
    pub bytes: &'a [u8],
}

/// Makes the kernel report each datagram's local address.
///
/// # Errors
/// An error of the system, for instance `ENOTSOCK`.
pub fn report_local_addresses(socket: BorrowedFd<'_>) -> io::Result<()> {
    // An IPv4 socket does not support the first option. On a dual-stack socket, it covers both families.
    switch_on(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO)
        .or_else(|_| switch_on(socket, libc::IPPROTO_IP, libc::IP_PKTINFO))
}

/// Number of datagrams that the kernel has dropped since the socket was created, because its queue was full.
///
/// # Errors
/// `ENOPROTOOPT` from kernels before 4.12.
pub fn dropped(socket: BorrowedFd<'_>) -> io::Result<u32> {
    /// Index among the socket's numbers (`SK_MEMINFO_DROPS`); later ones are not read.
    const DROPS: usize = 8;
    let mut figures = [0_u32; DROPS + 1];
    crate::read_option(socket, libc::SOL_SOCKET, libc::SO_MEMINFO, &mut figures)?;
    Ok(figures[DROPS])
}

fn switch_on(socket: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int) -> io::Result<()> {
    let on: libc::c_int = 1;
    let len = size_of_val(&on) as libc::socklen_t;
    // SAFETY: the kernel reads `len` bytes of `on`.
    let done = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const on).cast(), len) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Receives available datagrams without blocking: at most [`BATCH`], one for each buffer. `received` describes them in
/// the order of their buffers.
///
/// # Errors
/// `EAGAIN` if there are none, and other errors of the system.
pub fn receive<const SIZE: usize>(
    socket: BorrowedFd<'_>,
    buffers: &mut [[u8; SIZE]],
    received: &mut Vec<Received>,
) -> io::Result<()> {
    received.clear();
    // SAFETY: plain C structures, for which zeros are null pointers and zero lengths.
    let Space { mut names, mut controls, mut slices, mut headers } = unsafe { zeroed() };
    let count = buffers.len().min(BATCH);
    for at in 0..count {
        slices[at] = libc::iovec { iov_base: buffers[at].as_mut_ptr().cast(), iov_len: SIZE };
        let header = &mut headers[at].msg_hdr;
        header.msg_name = (&raw mut names[at]).cast();
        header.msg_namelen = size_of::<Name>() as libc::socklen_t;
        header.msg_iov = &raw mut slices[at];
        header.msg_iovlen = 1;
        header.msg_control = (&raw mut controls[at]).cast();
        header.msg_controllen = size_of::<Control>() as _;
    }
    let (fd, flags, count) = (socket.as_raw_fd(), libc::MSG_DONTWAIT as _, count as libc::c_uint);
    // SAFETY: the first `count` headers point to a name, a buffer and a control buffer each, with their true lengths.
    // All of them outlive the call, and no other thread uses them.
    let got = unsafe { libc::recvmmsg(fd, headers.as_mut_ptr(), count, flags, ptr::null_mut()) };
    let got = usize::try_from(got).map_err(|_| io::Error::last_os_error())?;
    received.extend((0..got).map(|at| {
        let ends = Ends { remote: names[at].get(), local: controls[at].get() };
        let is_whole = headers[at].msg_hdr.msg_flags & libc::MSG_TRUNC == 0;
        Received { ends, len: headers[at].msg_len as usize, is_whole }
    }));
    Ok(())
}

/// Sends as many datagrams as possible without blocking, at most [`BATCH`], from the front. Returns the number sent.
///
/// # Errors
/// If the first datagram cannot be sent.
pub fn send(socket: BorrowedFd<'_>, datagrams: &[Outgoing<'_>]) -> io::Result<usize> {
    // SAFETY: as in `receive`.
    let Space { mut names, mut controls, mut slices, mut headers } = unsafe { zeroed() };
    for (at, datagram) in datagrams.iter().take(BATCH).enumerate() {
        let header = &mut headers[at].msg_hdr;
        let bytes = datagram.bytes;
        slices[at] = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        header.msg_iov = &raw mut slices[at];
        header.msg_iovlen = 1;
        header.msg_namelen = names[at].set(datagram.ends.remote);
        header.msg_name = (&raw mut names[at]).cast();
        if let Some(local) = datagram.ends.local {
            controls[at].set(local);
            header.msg_control = (&raw mut controls[at]).cast();
            header.msg_controllen = size_of::<Control>() as _;
        }
    }
    let (fd, flags) = (socket.as_raw_fd(), libc::MSG_DONTWAIT as _);
    let count = datagrams.len().min(BATCH) as libc::c_uint;
    // SAFETY: as in `receive`; the kernel only reads what the headers point to.
    let sent = unsafe { libc::sendmmsg(fd, headers.as_mut_ptr(), count, flags) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// The structures of one call, besides the datagrams.
struct Space {
    names: [Name; BATCH],
    controls: [Control; BATCH],
    slices: [libc::iovec; BATCH],
    headers: [libc::mmsghdr; BATCH],
}

/// The control message with a local address, as the kernel reads and writes it.
#[derive(Clone, Copy)]
#[repr(C)]
struct Control {
    header: libc::cmsghdr,
    info: Info,
}

#[derive(Clone, Copy)]
#[repr(C)]
union Info {
    v4: libc::in_pktinfo,
    v6: libc::in6_pktinfo,
}

// SAFETY: plain arithmetic.
const _: () = assert!(offset_of!(Control, info) == unsafe { libc::CMSG_LEN(0) } as usize);

impl Control {
    fn get(&self) -> Option<IpAddr> {
        // SAFETY: every field consists of integers only, and all bytes were zeros at first.
        unsafe {
            match (self.header.cmsg_level, self.header.cmsg_type) {
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    Some(Ipv4Addr::from(u32::from_be(self.info.v4.ipi_spec_dst.s_addr)).into())
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    Some(Ipv6Addr::from(self.info.v6.ipi6_addr.s6_addr).into())
                }
                _ => None,
            }
        }
    }

    /// Sets the address to send from. The routing table still chooses the interface.
    fn set(&mut self, local: IpAddr) {
        match local {
            IpAddr::V4(ip) => {
                self.info.v4.ipi_spec_dst.s_addr = u32::from(ip).to_be();
                (self.header.cmsg_level, self.header.cmsg_type) = (libc::IPPROTO_IP, libc::IP_PKTINFO);
                self.set_len(size_of::<libc::in_pktinfo>());
            }
            IpAddr::V6(ip) => {
                self.info.v6.ipi6_addr.s6_addr = ip.octets();
                (self.header.cmsg_level, self.header.cmsg_type) = (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO);
                self.set_len(size_of::<libc::in6_pktinfo>());
            }
        }
    }

    fn set_len(&mut self, info: usize) {
        self.header.cmsg_len = (offset_of!(Self, info) + info) as _;
    }
}

/// An address of either family, as the kernel writes it; the longer one has room for the shorter.
#[derive(Clone, Copy)]
#[repr(C)]
union Name {
    v6: libc::sockaddr_in6,
    v4: libc::sockaddr_in,
    family: libc::sa_family_t,
}

impl Name {
    fn get(&self) -> SocketAddr {
        // SAFETY: every field consists of integers only, and all bytes were zeros at first.
        unsafe {
            if libc::c_int::from(self.family) == libc::AF_INET {
                let (ip, port) = (u32::from_be(self.v4.sin_addr.s_addr), u16::from_be(self.v4.sin_port));
                return SocketAddrV4::new(ip.into(), port).into();
            }
            let (ip, port) = (self.v6.sin6_addr.s6_addr.into(), u16::from_be(self.v6.sin6_port));
            SocketAddrV6::new(ip, port, self.v6.sin6_flowinfo, self.v6.sin6_scope_id).into()
        }
    }

    /// Writes an address. Returns its length.
    fn set(&mut self, address: SocketAddr) -> libc::socklen_t {
        match address {
            SocketAddr::V4(address) => {
                self.v4 = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: address.port().to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from(*address.ip()).to_be() },
                    sin_zero: [0; 8],
                };
                size_of::<libc::sockaddr_in>() as libc::socklen_t
            }
            SocketAddr::V6(address) => {
                self.v6 = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: address.port().to_be(),
                    sin6_flowinfo: address.flowinfo(),
                    sin6_addr: libc::in6_addr { s6_addr: address.ip().octets() },
                    sin6_scope_id: address.scope_id(),
                };
                size_of::<libc::sockaddr_in6>() as libc::socklen_t
            }
        }
    }
}
