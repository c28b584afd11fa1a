/// The checkpoint's chat template as literal text, since apps cannot run it; `PromptBuilder` builds from it.
public struct Dialogue: Record {
  public let begin: String
  /// By role: `system`, `user`, `model`.
  public let turns: [String: Marks]
  /// First in the system turn, where thinking is switched on.
  public let thinking: String
  /// Behind all turns: the model's begins.
  public let generation: String
  /// The same where thinking is switched on.
  public let generationThinking: String
  /// Each part of a text loses the white space around it.
  public let trimmed: Bool
  /// What earlier turns of the model's lose, marks included; nil: nothing.
  public let thought: Marks?
  /// By kind: `image`, `audio`, `video`.
  public let media: [String: Medium]
  /// In which apps put parts of a turn.
  public let order: [String]
  /// Nil: the template's are of another form.
  public let tools: ToolMarks?
}

/// Text before and behind something.
public struct Marks: Record {
  public let begin: String
  public let end: String
}

/// What stands for an image, a clip or a video, which is written out for each.
public struct Medium: Record {
  /// One in the prompt's text for each.
  public let placeholder: String
  public let begin: String
  /// As often as there are soft tokens.
  public let soft: String
  public let end: String
}

/// How tools are told of, called and answered: `begin`, the name, values between braces, `end`.
public struct ToolMarks: Record {
  public let declaration: Marks
  public let call: Marks
  public let response: Marks
  /// Behind calls in place of the turn's end: the first response is without it.
  public let opened: String
  /// On both sides of a string.
  public let quote: String
}
