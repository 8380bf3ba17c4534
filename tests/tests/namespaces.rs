//! Named network namespaces as netdext makes, enters and removes them.

use netdext::link::{Netlink, netns};
use netdext_tests::{Namespace, require};

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
fn many_namespaces_made_at_once_all_come_to_be() {
    require!();
    let namespaces: Vec<_> = (0..8).map(|_| Namespace::unmade()).collect();
    std::thread::scope(|scope| {
        for namespace in &namespaces {
            scope.spawn(|| {
                let guard = netns::enter_or_create(namespace.name()).unwrap();
                assert!(guard.made());
            });
        }
    });
    assert!(namespaces.iter().all(|namespace| !namespace.exists()));
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let of_directory = mounts.lines().filter(|line| line.split(' ').nth(4) == Some("/run/netns")).count();
    assert_eq!(of_directory, 1, "the directory is mounted over itself once");
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
