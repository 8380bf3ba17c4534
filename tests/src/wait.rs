//! Waiting for something to become true, and how long.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// How long between two looks.
const PAUSE: Duration = Duration::from_millis(5);

static PATIENCE: LazyLock<u32> = LazyLock::new(|| {
    let Some(set) = std::env::var_os("NETDEXT_TEST_PATIENCE") else { return 1 };
    let factor = set.to_str().and_then(|text| text.parse().ok()).filter(|factor| *factor > 0);
    factor.unwrap_or_else(|| panic!("NETDEXT_TEST_PATIENCE is a factor, not {set:?}"))
});

/// How many times as long as natively everything may take: `NETDEXT_TEST_PATIENCE`, set where the machine is emulated.
///
/// # Panics
/// It is set, but not to a whole number above 0.
pub fn patience() -> u32 {
    *PATIENCE
}

/// The limit for something that natively has to be done within `limit`.
pub fn patiently(limit: Duration) -> Duration {
    limit * patience()
}

/// Asks `condition` until it returns a value, and returns that. `timeout` is that of a native machine.
///
/// # Panics
/// It returned `None` up to the end of the time; the message has the description.
#[track_caller]
pub fn wait_until<T>(description: &str, timeout: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let timeout = patiently(timeout);
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited {timeout:?} in vain until {description}");
        std::thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_ends_with_the_first_value() {
        let mut looks = 0;
        let value = wait_until("there have been three looks", Duration::from_secs(5), || {
            looks += 1;
            (looks == 3).then_some(looks)
        });
        assert_eq!(value, 3);
    }

    #[test]
    fn a_limit_is_as_given_on_a_machine_that_is_not_said_to_be_slow() {
        let set = std::env::var_os("NETDEXT_TEST_PATIENCE").is_some();
        assert!(set || patiently(Duration::from_secs(3)) == Duration::from_secs(3));
    }

    #[test]
    #[should_panic(expected = "in vain until pigs fly")]
    fn waiting_in_vain_says_for_what() {
        wait_until("pigs fly", Duration::from_millis(10), || None::<()>);
    }
}
