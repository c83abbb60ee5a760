//! The dialects of the API, and the forms of responses that follow from them.

/// The dialect of a request; it decides the form of the response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dialect {
    /// `POST /{language}/execute`: a custom container's own, and `python/execute` of May 2024.
    Language(String),
    /// `POST /code/execute`: 2024-02-02-preview and 2024-08-02-preview.
    Code,
    /// `POST /execute`: 2024-09-01-preview and the custom-container sample.
    Execute,
    /// `POST /executions`: 2024-10-02-preview and later.
    Executions,
    /// `POST /shellExecute`: shell pools.
    Shell,
}

/// The forms that a response can take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResponseForm {
    /// Flat and under `properties`, with exit code and stages.
    Language,
    /// Under `properties` only.
    Code,
    Executions,
    /// An execution resource whose value is text: the .NET client of the versions that have it
    /// fails on a number.
    ExecutionsWithText,
    /// An execution resource whose status is the exit code.
    Shell,
    /// The response of `POST /shellExecute` in Microsoft's sample container.
    ShellExecute,
}

impl ResponseForm {
    /// The form of an execution resource.
    pub fn of_resource(is_shell: bool, value_is_text: bool) -> Self {
        match (is_shell, value_is_text) {
            (true, _) => Self::Shell,
            (false, true) => Self::ExecutionsWithText,
            (false, false) => Self::Executions,
        }
    }

    /// This form, or that of a resource of the other kind.
    pub fn for_execution(self, is_shell: bool, value_is_text: bool) -> Self {
        match self {
            Self::Language | Self::Code | Self::ShellExecute => self,
            _ => Self::of_resource(is_shell, value_is_text),
        }
    }

    /// Whether the status is an exit code.
    pub fn is_shell(self) -> bool {
        matches!(self, Self::Shell | Self::ShellExecute)
    }
}

/// The form of a response with files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FilesForm {
    /// `{"$id","value":[…]}`.
    Value,
    /// `{"$id","$values":[…]}` of `python/files`, May 2024.
    Values,
    /// One flat entry; with a `value` too, for clients that read that.
    Flat,
}
