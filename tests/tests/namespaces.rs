//! Named network namespaces as netdext makes, enters and removes them.

use std::sync::Barrier;

use netdext_host::link::{Netlink, netns};
use netdext_tests::{Namespace, require};
use rustix::mount::{MountFlags, MountPropagationFlags};
use rustix::thread::UnshareFlags;

/// The inode number of a thread's network namespace tells it from every other.
fn current_namespace() -> std::path::PathBuf {
    std::fs::read_link("/proc/thread-self/ns/net").expect("a thread has a namespace")
}

/// Namespaces are entered on threads of their own, so that the test's thread stays where it is.
fn on_a_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| scope.spawn(work).join()).unwrap_or_else(|p| std::panic::resume_unwind(p))
}

#[test]
fn a_missing_namespace_is_made_with_its_loopback_up_and_removed_with_the_guard() {
    require!();
    let namespace = Namespace::unmade();
    let outside = current_namespace();
    let inside = on_a_thread(|| {
        let guard = netns::enter_or_create(namespace.name()).unwrap();
        assert!(guard.made() && namespace.exists());
        let lo = namespace.link("lo").expect("there is a loopback");
        let flags = lo["flags"].as_array().unwrap().clone();
        assert!(flags.contains(&"UP".into()), "{lo}");
        assert_eq!(
            namespace.run("readlink", &["/proc/self/ns/net"]).trim(),
            current_namespace().to_str().unwrap()
        );
        current_namespace()
    });
    assert_ne!(inside, outside);
    assert_eq!(current_namespace(), outside, "only the thread that asked has moved");
    assert!(!namespace.exists());
}

#[test]
fn an_existing_namespace_is_entered_and_stays() {
    require!();
    let namespace = Namespace::new("an existing one");
    on_a_thread(|| {
        let guard = netns::enter_or_create(namespace.name()).unwrap();
        assert!(!guard.made());
        assert_eq!(guard.name(), namespace.name());
    });
    assert!(namespace.exists());
}

#[test]
fn a_namespace_made_by_netdext_is_one_for_ip() {
    require!();
    let namespace = Namespace::unmade();
    let guard = netns::create_if_missing(namespace.name()).unwrap();
    namespace.ip(&["link", "add", "bridge0", "type", "bridge"]);
    let names = namespace.block_on(async || Netlink::open()?.interface_names().await).unwrap();
    assert!(names.contains(&"bridge0".to_owned()), "{names:?}");
    // Removed by ip, the guard finds nothing to remove, and does not mind.
    namespace.ip(&["link", "delete", "bridge0"]);
    drop(guard);
    assert!(!namespace.exists());
}

#[test]
fn on_a_machine_without_any_namespace_many_can_be_made_at_once() {
    require!();
    // The race to mount the directory is short: several attempts, each with a /run of its own.
    for _ in 0..20 {
        on_a_thread(make_four_in_an_empty_run_directory);
    }
}

fn make_four_in_an_empty_run_directory() {
    empty_run_directory();
    // One of before lies hidden under the new /run, and is listed all the same.
    let before = mounts_on_the_directory();
    let namespaces: Vec<_> = (0..4).map(|_| Namespace::unmade()).collect();
    let start = Barrier::new(namespaces.len());
    std::thread::scope(|scope| {
        for namespace in &namespaces {
            scope.spawn(|| {
                start.wait();
                assert!(netns::enter_or_create(namespace.name()).unwrap().made());
            });
        }
    });
    assert_eq!(std::fs::read_dir("/run/netns").unwrap().count(), 0, "every guard has removed its namespace");
    assert_eq!(mounts_on_the_directory() - before, 1, "the directory is mounted over itself once");
}

fn mounts_on_the_directory() -> usize {
    let mounts = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    // The fifth field is the mount point (proc_pid_mountinfo(5)).
    mounts.lines().filter(|line| line.split(' ').nth(4) == Some("/run/netns")).count()
}

/// Gives the calling thread, and those it starts, a /run of their own with nothing in it.
fn empty_run_directory() {
    #[expect(deprecated, reason = "its replacement is unsafe for CLONE_FILES alone, which is not used")]
    rustix::thread::unshare(UnshareFlags::NEWNS).unwrap();
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).unwrap();
    rustix::mount::mount("tmpfs", "/run", "tmpfs", MountFlags::empty(), None).unwrap();
}

#[test]
fn a_file_that_is_no_namespace_is_refused_with_advice() {
    require!();
    let stale = Namespace::unmade();
    let path = format!("/run/netns/{}", stale.name());
    // The directory is a mount point once there has been any namespace.
    drop(Namespace::new("makes the directory"));
    std::fs::write(&path, "").unwrap();
    let error = on_a_thread(|| netns::enter_or_create(stale.name()).unwrap_err().to_string());
    std::fs::remove_file(&path).unwrap();
    assert!(error.contains(&path) && error.contains("ip netns delete"), "{error}");
}
