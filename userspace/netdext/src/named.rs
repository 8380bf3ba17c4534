//! Enumerations whose members are counted under a name.

/// An enum, the name of each member in the JSON output, and the list of all of them: for what a driver counts.
///
/// ```
/// netdext::named! {
///     /// What became of a received frame.
///     enum Outcome {
///         /// Sent back.
///         Echoed = "echoed",
///         /// For another port.
///         Ignored = "ignored",
///     }
/// }
/// assert_eq!(Outcome::ALL.len(), 2);
/// assert_eq!(Outcome::Echoed.name(), "echoed");
/// ```
#[macro_export]
macro_rules! named {
    ($(#[$doc:meta])* $vis:vis enum $enum:ident { $($(#[$member_doc:meta])* $member:ident = $name:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        $vis enum $enum {
            $($(#[$member_doc])* $member,)+
        }

        impl $enum {
            /// Every member, in the order of declaration, which is that of their numbers.
            $vis const ALL: &'static [Self] = &[$(Self::$member,)+];

            /// The name in the JSON output.
            $vis const fn name(self) -> &'static str {
                match self {
                    $(Self::$member => $name,)+
                }
            }
        }
    };
}
