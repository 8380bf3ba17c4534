//! Errors as a user sees them.

use std::error::Error;

/// An error with its causes, on one line. A cause that the text before it already ends with is not said twice.
pub fn one_line(error: &dyn Error) -> String {
    let mut line = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        next = error.source();
        let cause = error.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        if line.ends_with(&cause) {
            continue;
        }
        if !line.is_empty() {
            line.push_str(": ");
        }
        line.push_str(&cause);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Step {
        text: &'static str,
        source: Option<Box<Step>>,
    }

    #[test]
    fn causes_are_joined_on_one_line_and_said_once() {
        let cause = Step { text: "no\nroom", source: None };
        let open = Step { text: "open x: no room", source: Some(Box::new(cause)) };
        let start = Step { text: "start", source: Some(Box::new(open)) };
        assert_eq!(one_line(&start), "start: open x: no room");
        let cause = Step { text: "no room", source: None };
        assert_eq!(one_line(&Step { text: "open x", source: Some(Box::new(cause)) }), "open x: no room");
    }
}
