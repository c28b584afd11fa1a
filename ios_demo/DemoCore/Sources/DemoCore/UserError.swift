import Foundation

/// Bad input, said in one line that names the cause and what to do about it.
public struct UserError: LocalizedError, Equatable, CustomStringConvertible {
  public let message: String

  public init(_ message: String) {
    self.message = message
  }

  public var errorDescription: String? { message }
  public var description: String { message }
}
