//! The protocols against smoltcp, against vectors, and against mutated frames.

mod echo;
mod in_place;
mod mutation;
mod neighbor;

/// The bytes of a vector; blanks separate the headers.
fn hex(digits: &str) -> Vec<u8> {
    let digits: Vec<u8> =
        digits.chars().filter_map(|digit| digit.to_digit(16)).map(|digit| digit as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}
