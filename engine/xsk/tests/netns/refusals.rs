//! What cannot be had, and how it is said.

use crate::frames::services;
use crate::pair::*;
use xsk::{Error, InterfaceOptions, Mode, ModeRequest, Queues};

#[test]
fn a_missing_interface_is_named() {
    for name in ["nosuch0", "", "a-name-that-is-far-too-long", "nul\0inside"] {
        let error = xsk::open(&InterfaceOptions::new(name)).unwrap_err();
        assert!(matches!(error, Error::NoInterface { .. }), "{error}");
    }
}

#[test]
fn an_interface_without_ethernet_is_refused() {
    let error = xsk::open(&InterfaceOptions::new("lo")).unwrap_err();
    assert_eq!(error.to_string(), "lo: not an Ethernet interface");
}

#[test]
fn a_queue_that_is_taken_is_said_so_after_a_while() {
    let pair = Pair::new("xsk-taken", 1);
    let _first = pair.open();
    for mode in [ModeRequest::Auto, ModeRequest::Copy] {
        let error = pair.try_open(&InterfaceOptions { mode, ..small(NEAR) }).unwrap_err();
        let said = error.to_string();
        assert!(said.starts_with("another program, perhaps another shunt, already has queue 0 of"));
        assert!(said.contains("of near0: stop it"), "{said}");
    }
}

#[test]
fn a_queue_that_was_just_closed_can_be_opened() {
    let pair = Pair::new("xsk-reopen", 2);
    for _ in 0..10 {
        drop(pair.steer(&small(NEAR), &services()));
    }
}

#[test]
fn zero_copy_is_refused_by_a_driver_that_cannot() {
    let pair = Pair::new("xsk-zerocopy", 1);
    let zero_copy = InterfaceOptions { mode: ModeRequest::ZeroCopy, ..small(NEAR) };
    let error = pair.try_open(&zero_copy).unwrap_err();
    assert!(matches!(error, Error::NoZeroCopy { .. }), "{error}");
    let message = error.to_string();
    for part in ["queue 0 of near0", "its driver, veth, refuses zero-copy", "mlx5", "\"copy\""] {
        assert!(message.contains(part), "{message}");
    }
    for mode in [ModeRequest::Auto, ModeRequest::Copy] {
        let interface = pair.try_open(&InterfaceOptions { mode, ..small(NEAR) }).unwrap();
        let monitor = &interface.monitors[0];
        assert_eq!(monitor.mode(), Mode::Copy);
        let refusal = monitor.zero_copy_refusal().map(ToString::to_string);
        assert_eq!(refusal.is_some(), mode == ModeRequest::Auto, "{refusal:?}");
        assert!(refusal.is_none_or(|why| why.starts_with("its driver, veth, refuses zero-copy (")));
    }
}

#[test]
fn a_list_that_leaves_a_queue_out_is_mended_by_the_line_it_names() {
    let pair = Pair::new("xsk-list", 4);
    let list =
        |queues: &[u32]| InterfaceOptions { queues: Queues::List(queues.to_vec()), ..small(NEAR) };
    let error = pair.try_open(&list(&[0, 1])).unwrap_err();
    assert!(matches!(error, Error::Queues { .. }), "{error}");
    assert!(error.to_string().contains("`ethtool -L near0 rx 2 tx 2`"), "{error}");
    // As ethtool(8) would: a veth shares the count of its peer's queues.
    let opened = pair.try_open(&list(&[0, 1, 2, 3])).unwrap();
    let queues: Vec<u32> = opened.ports.iter().map(xsk::XskPort::queue).collect();
    assert_eq!(queues, [0, 1, 2, 3]);
    let error = pair.try_open(&list(&[0, 1, 2, 3, 4])).unwrap_err();
    assert!(error.to_string().contains("queue 4 does not exist, there are 4"), "{error}");
}

#[test]
fn a_packet_size_that_no_frame_holds_is_refused() {
    let pair = Pair::new("xsk-mtu", 1);
    pair.near.ip(&format!("link set {NEAR} mtu 9000")).unwrap();
    let error = pair.try_open(&small(NEAR)).unwrap_err();
    assert!(matches!(error, Error::Unsuitable { .. }), "{error}");
    assert!(error.to_string().contains("`ip link set dev near0 mtu 3818`"), "{error}");
}

/// Runs `task` on a thread that has none of root's capabilities but these (numbers of
/// linux/capability.h).
fn with_capabilities<T: Send>(kept: &[u32], task: impl FnOnce() -> T + Send) -> T {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: libc::c_int,
    }
    #[repr(C)]
    #[derive(Clone, Copy, Default)]
    struct Data {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    let mut data = [Data::default(); 2];
    for capability in kept {
        let word = &mut data[(capability / 32) as usize];
        word.effective |= 1 << (capability % 32);
        word.permitted = word.effective;
    }
    // _LINUX_CAPABILITY_VERSION_3; pid 0 is the calling thread.
    let header = Header { version: 0x2008_0522, pid: 0 };
    // SAFETY: capset(2) reads one header and two data words, live locals, and changes this
    // thread alone.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    task()
}

#[test]
fn what_permission_is_missing_is_named() {
    const CAP_NET_ADMIN: u32 = 12;
    const CAP_NET_RAW: u32 = 13;
    const CAP_IPC_LOCK: u32 = 14;
    const CAP_BPF: u32 = 39;
    let pair = Pair::new("xsk-caps", 1);
    for (kept, needed) in [
        (&[][..], "CAP_NET_RAW"),
        (&[CAP_NET_RAW, CAP_IPC_LOCK], "CAP_NET_ADMIN, CAP_BPF"),
        (&[CAP_NET_RAW, CAP_IPC_LOCK, CAP_BPF], "CAP_NET_ADMIN, CAP_BPF"),
        (&[CAP_NET_RAW, CAP_IPC_LOCK, CAP_NET_ADMIN], "CAP_NET_ADMIN, CAP_BPF"),
    ] {
        let options = small(NEAR);
        let error =
            pair.near.run(|| with_capabilities(kept, || xsk::open(&options))).unwrap().unwrap_err();
        assert!(matches!(error, Error::NoPermission { .. }), "{kept:?}: {error}");
        assert!(error.to_string().contains(needed), "{kept:?}: {error}");
    }
    let large = InterfaceOptions { frames: 1 << 19, ..small(NEAR) };
    let error = pair
        .near
        .run(|| with_capabilities(&[CAP_NET_RAW, CAP_NET_ADMIN, CAP_BPF], || xsk::open(&large)))
        .unwrap()
        .unwrap_err();
    assert!(error.to_string().contains("CAP_IPC_LOCK or a larger RLIMIT_MEMLOCK"), "{error}");
}
