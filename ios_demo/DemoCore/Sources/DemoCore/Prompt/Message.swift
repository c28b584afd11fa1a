import Foundation

/// Of a conversation.
public struct Message: Sendable, Equatable {
  public enum Role: String, Sendable {
    case system, user, model
    /// What a function that was called answered.
    case tool
  }

  /// A piece of what is said, in order.
  public enum Part: Sendable, Equatable {
    case text(String)
    /// `image`, `audio` or `video`; its values are among the message's.
    case medium(String)
  }

  /// A function that the model called.
  public struct Call: Sendable, Equatable {
    public let name: String
    public let arguments: Arguments

    public init(name: String, arguments: Arguments) {
      self.name = name
      self.arguments = arguments
    }
  }

  public enum Arguments: Sendable, Equatable {
    /// As the model wrote them, so that they are what the cache holds.
    case written(String)
    case values([String: JSONValue])
  }

  /// What a function answered.
  public struct Response: Sendable, Equatable {
    public let name: String
    public let value: JSONValue

    public init(name: String, value: JSONValue) {
      self.name = name
      self.value = value
    }
  }

  public let role: Role
  public var parts: [Part]
  /// In the order of their parts.
  public var images: [ImagePatches] = []
  public var clips: [AudioFrames] = []
  /// Of the role `model`.
  public var calls: [Call] = []
  /// Of the role `tool`.
  public var response: Response?

  public init(_ role: Role, _ parts: [Part] = []) {
    self.role = role
    self.parts = parts
  }

  public init(_ role: Role, _ text: String) {
    self.init(role, [.text(text)])
  }

  /// The user's: images, then clips, then the text, as `Dialogue.order` has them.
  public init(_ text: String, images: [ImagePatches], clips: [AudioFrames]) {
    let media = images.map { _ in Part.medium("image") } + clips.map { _ in Part.medium("audio") }
    self.init(.user, media + [.text(text)])
    self.images = images
    self.clips = clips
  }

  /// The model's, as a prompt takes it back.
  public init(_ reply: Reply) {
    self.init(.model, reply.text)
    calls = reply.calls.map(Call.init(written:))
  }
}

extension Message.Call {
  /// `call:NAME{...}`
  init(written: String) {
    let body = written.components(separatedBy: "call:").dropFirst().joined(separator: "call:")
    let parts = body.split(separator: "{", maxSplits: 1, omittingEmptySubsequences: false)
    let arguments = parts.count > 1 ? String(parts[1]) : ""
    self.init(
      name: String(parts[0]), arguments: .written(arguments.hasSuffix("}") ? String(arguments.dropLast()) : arguments))
  }
}
