// How well captions fit a picture: similarity BUNDLE PICTURE CAPTION...
#include <cstdio>
#include <openclip_engines/clip.hpp>

int main(int count, char** words) {
    if (count < 4) return std::fprintf(stderr, "usage: similarity BUNDLE PICTURE CAPTION...\n"), 1;
    const auto clip = oce::Clip::open(words[1]);
    const std::vector<oce::Image> pictures{oce::Image::path(words[2])};
    const std::vector<std::string_view> captions(words + 3, words + count);
    const std::vector<float> shares = clip.classify(pictures, captions);
    for (std::size_t i = 0; i < captions.size(); ++i) std::printf("%5.1f%%  %s\n", 100 * shares[i], words[3 + i]);
}
