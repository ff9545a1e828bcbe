// Names what is in a picture with a file that imgcls-export wrote (--format onnx). No other library is needed:
// the network prepares the picture itself, and the class names are in the file.
//
//   g++ -std=c++17 -O2 classify.cpp -I $ORT/include -L $ORT/lib -lonnxruntime -o classify
//   ./classify pets.onnx cat.ppm        (convert cat.jpg cat.ppm: binary PPM, so that no decoder is needed here)
//
// ORT is the unpacked release of ONNX Runtime (onnxruntime-linux-x64-*.tgz), 1.12 or later.

#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <numeric>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

struct Image {
    int64_t height = 0, width = 0;
    std::vector<uint8_t> pixels;  // RGB, row by row
};

// Reads a binary PPM of 8 bits: "P6", width, height, 255, each may have comments before it.
Image read_ppm(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    auto number = [&file]() {
        while ((file >> std::ws).peek() == '#') file.ignore(1 << 20, '\n');
        int64_t value = 0;
        file >> value;
        return value;
    };
    std::string magic(2, '\0');
    file.read(magic.data(), 2);
    Image image;
    image.width = number();
    image.height = number();
    bool is_right = magic == "P6" && number() == 255 && file && image.width > 0 && image.height > 0;
    if (!is_right || image.width > 65500 || image.height > 65500)
        throw std::runtime_error(path + ": no PPM of 8 bits");
    file.get();  // the one blank behind the header
    image.pixels.resize(3 * image.width * image.height);
    if (!file.read(reinterpret_cast<char*>(image.pixels.data()), image.pixels.size()))
        throw std::runtime_error(path + ": is cut off");
    return image;
}

// The names, one a line, which the export keeps beside its JSON for programs like this one.
std::vector<std::string> class_names(const Ort::Session& session) {
    Ort::AllocatorWithDefaultOptions allocator;
    auto text = session.GetModelMetadata().LookupCustomMetadataMapAllocated("synset", allocator);
    std::vector<std::string> names;
    std::istringstream lines(text ? text.get() : "");
    for (std::string line; std::getline(lines, line);) names.push_back(line);
    return names;
}

int main(int argc, char** argv) try {
    if (argc != 3) {
        std::cerr << "usage: classify NETWORK.onnx IMAGE.ppm\n";
        return 2;
    }
    Ort::Env env(ORT_LOGGING_LEVEL_WARNING, "classify");
    Ort::Session session(env, argv[1], Ort::SessionOptions{});
    Image image = read_ppm(argv[2]);
    const std::array<int64_t, 4> shape{1, image.height, image.width, 3};
    auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    auto input = Ort::Value::CreateTensor<uint8_t>(memory, image.pixels.data(), image.pixels.size(), shape.data(), 4);
    const char* inputs[] = {"images"};
    const char* outputs[] = {"probabilities"};
    auto result = session.Run(Ort::RunOptions{nullptr}, inputs, &input, 1, outputs, 1);
    const float* probabilities = result[0].GetTensorData<float>();
    const size_t count = result[0].GetTensorTypeAndShapeInfo().GetElementCount();

    std::vector<std::string> names = class_names(session);
    std::vector<size_t> order(count);
    std::iota(order.begin(), order.end(), 0);
    std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return probabilities[a] > probabilities[b]; });
    order.resize(std::min<size_t>(count, 5));
    for (size_t index : order)
        std::printf("%s (score = %.5f)\n", (index < names.size() ? names[index] : std::to_string(index)).c_str(),
                    probabilities[index]);
    return 0;
} catch (const std::exception& error) {  // Ort::Exception is one
    std::cerr << "classify: error: " << error.what() << "\n";
    return 1;
}
