import DemoCore
import Foundation

/// Runs what the app runs where there is no Core ML: whoever reads this process's standard output runs the packages, see
/// `Pipe`.
///
///     drive replay BUNDLE GOLDEN             the self-test of a golden
///     drive converse BUNDLE GOLDEN TEXT...   turns of a conversation, the first about the golden's media
@main
struct Drive {
  /// Tokens of an answer.
  private static let limit = 8

  static func main() async {
    do {
      let arguments = CommandLine.arguments
      guard arguments.count > 3 else { throw UserError("usage: drive replay|converse BUNDLE GOLDEN TEXT...") }
      let bundle = URL(filePath: arguments[2])
      let manifest = try ManifestReader.read(bundle: bundle)
      guard let entry = manifest.goldens.first(where: { $0.name == arguments[3] }) else {
        throw UserError("no golden \(arguments[3])")
      }
      let golden = try Golden(entry, bundle: bundle)
      let pipe = Pipe()
      let session = try CoreMLSession(manifest: manifest, bundle: bundle, runner: pipe)
      switch arguments[1] {
      case "replay": try pipe.tell(try await SelfTest(golden, tokens: manifest.tokens).run(on: session))
      default: try await converse(Array(arguments[4...]), golden.inputs, session, manifest, bundle, pipe)
      }
    } catch {
      FileHandle.standardError.write(Data("error: \(error.localizedDescription)\n".utf8))
      exit(2)
    }
  }

  private static func converse(
    _ texts: [String], _ media: ModelInputs, _ session: CoreMLSession, _ manifest: Manifest, _ bundle: URL, _ pipe: Pipe
  ) async throws {
    guard let dialogue = manifest.dialogue else { throw UserError("the bundle describes no dialogue") }
    var sampling = manifest.sampling
    sampling.doSample = false
    let tokenizer = try PipedTokenizer(bundle: bundle, pipe: pipe)
    let conversation = Conversation(
      engine: session, tokenizer: tokenizer, tokens: manifest.tokens, sampling: sampling)
    for (index, text) in texts.enumerated() {
      let message = Message(text, images: index == 0 ? media.images : [], clips: index == 0 ? media.clips : [])
      for try await event in conversation.say(message, prompt: PromptBuilder(dialogue), limit: limit) {
        if case .ended(let turn) = event { try pipe.tell(turn) }
      }
    }
  }
}
