//! Waiting for something to become true.

use std::time::{Duration, Instant};

/// How long between two looks.
const PAUSE: Duration = Duration::from_millis(5);

/// Asks `condition` until it returns a value, and returns that.
///
/// # Panics
/// It returned `None` up to the end of `timeout`; the message has the description.
#[track_caller]
pub fn wait_until<T>(description: &str, timeout: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
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
    #[should_panic(expected = "in vain until pigs fly")]
    fn waiting_in_vain_says_for_what() {
        wait_until("pigs fly", Duration::from_millis(10), || None::<()>);
    }
}
