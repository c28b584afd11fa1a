import SwiftUI

struct ChatView: View {
  @State private var chat: ChatModel

  init(loaded: AppModel.Loaded) {
    _chat = State(initialValue: ChatModel(loaded))
  }

  var body: some View {
    NavigationStack {
      ScrollView {
        LazyVStack(alignment: .leading, spacing: 16) {
          ForEach(chat.entries) { EntryView(entry: $0) }
        }
        .padding()
      }
      .defaultScrollAnchor(.bottom)
      .safeAreaInset(edge: .bottom) { ComposerView(chat: chat) }
      .navigationTitle("Chat")
      .navigationBarTitleDisplayMode(.inline)
      .toolbar { ChatMenu(chat: chat) }
      .alert("That cannot be said", isPresented: $chat.trouble.isPresent(), presenting: chat.trouble) { _ in
        Button("OK") { chat.trouble = nil }
      } message: {
        Text($0)
      }
    }
  }
}

private struct ChatMenu: View {
  @Bindable var chat: ChatModel

  var body: some View {
    Menu("Options", systemImage: "ellipsis.circle") {
      Toggle("Think first", isOn: $chat.thinks)
      Toggle("Sample", isOn: $chat.samples)
        .onChange(of: chat.samples) { chat.begin() }
      Button("Try again", systemImage: "arrow.counterclockwise") { chat.retry() }
      Button("New conversation", systemImage: "square.and.pencil") { chat.begin() }
    }
  }
}
