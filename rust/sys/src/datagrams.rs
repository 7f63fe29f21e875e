//! UDP sockets, many datagrams a system call, each with the address of ours that it was sent to.
//!
//! `nix` cannot use the headers of such a call twice, as it loses the room for control messages, and sends one batch
//! with one set of them; `quinn-udp` sends one by one, and has the kernel join datagrams before they can be counted.

use std::io;
use std::mem::{size_of, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

/// Most datagrams that one call takes.
pub const BATCH: usize = 64;

/// Between whom a datagram travels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ends {
    /// The other side's address.
    pub remote: SocketAddr,
    /// Ours. Received: `None` if the kernel did not say. To be sent: `None` lets the kernel choose.
    pub local: Option<IpAddr>,
}

/// A datagram that came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Received {
    /// Between whom.
    pub ends: Ends,
    /// How much of it is in its buffer.
    pub len: usize,
    /// Whether that is all of it.
    pub is_whole: bool,
}

/// A datagram to be sent.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// Between whom.
    pub ends: Ends,
    /// What is in it.
    pub bytes: &'a [u8],
}

/// Has the kernel say of each datagram where it was sent to.
///
/// # Errors
/// The system's, `ENOTSOCK` for instance.
pub fn tell_local_addresses(socket: BorrowedFd<'_>) -> io::Result<()> {
    // An IPv4 socket does not know the first; one for both families tells both of them by it.
    switch_on(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO)
        .or_else(|_| switch_on(socket, libc::IPPROTO_IP, libc::IP_PKTINFO))
}

/// How many datagrams the kernel has thrown away since the socket was made, for those before them were still unread.
///
/// # Errors
/// `ENOPROTOOPT` from kernels before 4.12.
pub fn dropped(socket: BorrowedFd<'_>) -> io::Result<u32> {
    /// Where it stands among the socket's figures (`SK_MEMINFO_DROPS`); those behind it are left out.
    const DROPS: usize = 8;
    let mut figures = [0_u32; DROPS + 1];
    let mut len = size_of_val(&figures) as libc::socklen_t;
    let (fd, to) = (socket.as_raw_fd(), figures.as_mut_ptr().cast());
    // SAFETY: the kernel writes at most `len` bytes to `figures`, and any bytes are numbers.
    let done = unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_MEMINFO, to, &raw mut len) };
    if done == 0 { Ok(figures[DROPS]) } else { Err(io::Error::last_os_error()) }
}

fn switch_on(socket: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int) -> io::Result<()> {
    let on: libc::c_int = 1;
    let len = size_of_val(&on) as libc::socklen_t;
    // SAFETY: the kernel reads `len` bytes of `on`.
    let done = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const on).cast(), len) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Takes what has come, at most [`BATCH`] datagrams and one a buffer, without waiting; `received` then tells of them
/// in the order of their buffers.
///
/// # Errors
/// `EAGAIN` when nothing has come, and any other of the system's.
pub fn receive<const SIZE: usize>(
    socket: BorrowedFd<'_>,
    buffers: &mut [[u8; SIZE]],
    received: &mut Vec<Received>,
) -> io::Result<()> {
    received.clear();
    // SAFETY: plain C structures, for which zeros are null pointers and lengths of nothing.
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
    // SAFETY: the first `count` headers point to a name, a buffer and a control buffer each, with their true lengths,
    // all of which outlive the call; no other thread knows them.
    let got = unsafe { libc::recvmmsg(fd, headers.as_mut_ptr(), count, flags, ptr::null_mut()) };
    let got = usize::try_from(got).map_err(|_| io::Error::last_os_error())?;
    received.extend((0..got).map(|at| {
        let header = &headers[at].msg_hdr;
        // SAFETY: the kernel has filled the control buffer, which is still there, and set its length.
        let local = unsafe { local(header) };
        let (len, is_whole) = (headers[at].msg_len as usize, header.msg_flags & libc::MSG_TRUNC == 0);
        Received { ends: Ends { remote: names[at].get(), local }, len, is_whole }
    }));
    Ok(())
}

/// Sends from the front as many as it can, at most [`BATCH`], without waiting, and says how many.
///
/// # Errors
/// Why the first of them cannot be sent.
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
            header.msg_control = (&raw mut controls[at]).cast();
            header.msg_controllen = size_of::<Control>() as _;
            // SAFETY: the control buffer is there, aligned and of that length.
            unsafe { set_local(header, local) };
        }
    }
    let (fd, flags) = (socket.as_raw_fd(), libc::MSG_DONTWAIT as _);
    let count = datagrams.len().min(BATCH) as libc::c_uint;
    // SAFETY: as in `receive`; the kernel only reads what the headers point to.
    let sent = unsafe { libc::sendmmsg(fd, headers.as_mut_ptr(), count, flags) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// What one call needs besides the datagrams.
struct Space {
    names: [Name; BATCH],
    controls: [Control; BATCH],
    slices: [libc::iovec; BATCH],
    headers: [libc::mmsghdr; BATCH],
}

/// Room for one control message with an address of ours, aligned as its header wants it.
type Control = [u64; 8];

/// An address of either family as the kernel writes it; the longer one has room for the shorter.
#[derive(Clone, Copy)]
#[repr(C)]
union Name {
    v6: libc::sockaddr_in6,
    v4: libc::sockaddr_in,
    family: libc::sa_family_t,
}

impl Name {
    fn get(&self) -> SocketAddr {
        // SAFETY: every field is made of integers alone, and the whole was zeros before anything was written.
        unsafe {
            if libc::c_int::from(self.family) == libc::AF_INET {
                let (ip, port) = (u32::from_be(self.v4.sin_addr.s_addr), u16::from_be(self.v4.sin_port));
                return SocketAddrV4::new(ip.into(), port).into();
            }
            let (ip, port) = (self.v6.sin6_addr.s6_addr.into(), u16::from_be(self.v6.sin6_port));
            SocketAddrV6::new(ip, port, self.v6.sin6_flowinfo, self.v6.sin6_scope_id).into()
        }
    }

    /// Writes an address, and gives the length of what was written.
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

/// The address of ours in a received header's control messages.
///
/// # Safety
/// `msg_control` and `msg_controllen` are as the kernel left them.
unsafe fn local(header: &libc::msghdr) -> Option<IpAddr> {
    // SAFETY: the macros walk what the kernel wrote; the message's type says what is in it.
    unsafe {
        let mut at = libc::CMSG_FIRSTHDR(header);
        while let Some(message) = at.as_ref() {
            let data = libc::CMSG_DATA(at);
            match (message.cmsg_level, message.cmsg_type) {
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    let info = data.cast::<libc::in_pktinfo>().read_unaligned();
                    return Some(Ipv4Addr::from(u32::from_be(info.ipi_spec_dst.s_addr)).into());
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let info = data.cast::<libc::in6_pktinfo>().read_unaligned();
                    return Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).into());
                }
                _ => at = libc::CMSG_NXTHDR(header, at),
            }
        }
    }
    None
}

/// Makes the one control message that names the address to send from. The way out stays the routing table's to choose.
///
/// # Safety
/// `msg_control` points to a [`Control`], and `msg_controllen` is its length.
unsafe fn set_local(header: &mut libc::msghdr, local: IpAddr) {
    // SAFETY: a `Control` is aligned for a message's header and has room for one and either structure behind it.
    unsafe {
        let message = libc::CMSG_FIRSTHDR(header);
        let data = libc::CMSG_DATA(message);
        let len = match local {
            IpAddr::V4(ip) => {
                let spec_dst = libc::in_addr { s_addr: u32::from(ip).to_be() };
                let info = libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: spec_dst, ipi_addr: spec_dst };
                data.cast::<libc::in_pktinfo>().write_unaligned(info);
                ((*message).cmsg_level, (*message).cmsg_type) = (libc::IPPROTO_IP, libc::IP_PKTINFO);
                size_of::<libc::in_pktinfo>()
            }
            IpAddr::V6(ip) => {
                let info =
                    libc::in6_pktinfo { ipi6_addr: libc::in6_addr { s6_addr: ip.octets() }, ipi6_ifindex: 0 };
                data.cast::<libc::in6_pktinfo>().write_unaligned(info);
                ((*message).cmsg_level, (*message).cmsg_type) = (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO);
                size_of::<libc::in6_pktinfo>()
            }
        };
        (*message).cmsg_len = libc::CMSG_LEN(len as libc::c_uint) as _;
        header.msg_controllen = libc::CMSG_SPACE(len as libc::c_uint) as _;
    }
}
