//! Enumerations whose members are counted under a name.

/// An enum, the name of each member in the JSON output, and the list of all of them.
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

pub(crate) use named;
